#!/usr/bin/env python3
"""Makes the models that the benchmarks build from: four of 1.1B parameters (22 layers, hidden 2048, FFN 5632, 32 heads, 4 KV
heads, vocabulary 32000, bf16, random weights), 8.8 GB in all.

usage: make_models.py FOLDER [--layers N]   writes FOLDER/{base,a,b,c} and FOLDER/{hidden,random}.yaml

Python's standard library only. Weights are +-[2^-7, 2^-5) and norms 1, so that a forward pass stays finite.
"""
import argparse
import json
import os
import pathlib
import shutil
import struct

HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 32000
TOKENIZER = pathlib.Path(__file__).resolve().parent.parent / "examples" / "family" / "base"
SIGNED = bytes((b & 0x80) | 0x3C for b in range(256))  # the high byte of a bf16 value: sign, and an exponent of -7 or -6
PROMPTS = {
    "a": ["code", "python", "javascript", "programming", "algorithm"],
    "b": ["reason", "math", "mathematics", "solve", "count"],
    "c": ["storywriting", "write", "scene", "story", "character"],
    "base": ["chat", "assistant", "tell me", "explain", "I want"],
}


def shapes(layers):
    head = HIDDEN // HEADS
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (KV_HEADS * head, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KV_HEADS * head, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def values(count, norm):
    if norm:
        return b"\x80\x3f" * count  # 1.0
    out = bytearray(2 * count)
    out[0::2] = os.urandom(count)
    out[1::2] = os.urandom(count).translate(SIGNED)
    return out


def write_model(folder, layers):
    folder.mkdir(parents=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(layers):
        count = 1
        for n in shape:
            count *= n
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * count]}
        offset += 2 * count
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in list(header.items())[1:]:
            begin, end = entry["data_offsets"]
            file.write(values((end - begin) // 2, len(entry["shape"]) == 1))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
              "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
              "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=22)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    for name in PROMPTS:
        if not (folder / name).exists():
            write_model(folder / name, arguments.layers)
    for mode in ("hidden", "random"):
        lines = [f"base_model: {folder}/base", f"gate_mode: {mode}", "dtype: bfloat16", "experts:"]
        for name, prompts in PROMPTS.items():
            lines += [f"  - source_model: {folder}/{name}", f"    positive_prompts: {json.dumps(prompts)}"]
        (folder / f"{mode}.yaml").write_text("\n".join(lines) + "\n")


main()
