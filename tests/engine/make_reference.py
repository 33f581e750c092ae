#!/usr/bin/env python3
"""Makes the reference data of moerge/engine/decoder_test.cpp: hidden states that transformers computes in float32.

usage: python tests/engine/make_reference.py        (needs torch, transformers 5 and safetensors)

Writes beside itself:
  weights_KIND.safetensors   tiny random models that several cases share, from fixed seeds
  CASE.json                  "config" (a config.json), "weights" (a file here, or a model folder of the repository),
                             "sequences" (token ids), "rows" (which of all tokens, counted through, are kept)
  CASE.states                float32 [layers, rows, hidden]: what enters each layer
A second run changes no byte unless torch or transformers compute otherwise.
"""
import hashlib, json, os, tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
# 1100 is more than two blocks of queries.
LENGTHS = [5, 150, 1, 37, 5, 1100]

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=32, intermediate_size=48, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, num_hidden_layers=3, vocab_size=64, max_position_embeddings=2048,
             rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", attention_bias=False, mlp_bias=False,
             tie_word_embeddings=True)
MISTRAL = {k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias")} | dict(
    architectures=["MistralForCausalLM"], model_type="mistral")


def scaled(**scaling):
    return LLAMA | dict(rope_scaling=scaling)


CASES = {
    "f32": ("f32", LLAMA),
    "f16": ("f16", LLAMA),
    "bf16": ("bf16", LLAMA),
    "attention_bias": ("bias", LLAMA | dict(attention_bias=True)),
    "sliding_window": ("f32", MISTRAL | dict(sliding_window=20)),
    "sliding_window_wide": ("f32", MISTRAL | dict(sliding_window=600)),
    "rope_linear": ("f32", scaled(type="linear", factor=4.0)),
    "rope_dynamic": ("f32", scaled(rope_type="dynamic", factor=2.0)),
    # Wavelengths are 6 .. 20000 tokens: with an original length of 256 all three ranges of the rules are hit.
    "rope_llama3": ("f32", scaled(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                  original_max_position_embeddings=256)),
    "rope_yarn": ("f32", scaled(rope_type="yarn", factor=8.0, original_max_position_embeddings=256)),
    "rope_yarn_options": ("f32", scaled(rope_type="yarn", factor=8.0, original_max_position_embeddings=256, beta_fast=16.0,
                                        beta_slow=2.0, mscale=1.4, mscale_all_dim=0.7, truncate=False)),
    "family_base": ("examples/family/base", None),
}


def random_weights(bias):
    out = {}

    def add(name, *shape, std, mean=0.0):
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big"))
        out[name] = torch.randn(shape, generator=generator) * std + mean

    add("model.embed_tokens.weight", 64, 32, std=0.5)
    for layer in range(LLAMA["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        add(p + "input_layernorm.weight", 32, std=0.1, mean=1.0)
        # Wide q and k make the attention choosy: a wrong angle or mask must show.
        for name, rows, columns, std in [("q", 64, 32, 0.4), ("k", 32, 32, 0.4), ("v", 32, 32, 0.2), ("o", 32, 64, 0.2)]:
            add(f"{p}self_attn.{name}_proj.weight", rows, columns, std=std)
            if bias:
                add(f"{p}self_attn.{name}_proj.bias", rows, std=0.5)
        add(p + "post_attention_layernorm.weight", 32, std=0.1, mean=1.0)
        add(p + "mlp.gate_proj.weight", 48, 32, std=0.2)
        add(p + "mlp.up_proj.weight", 48, 32, std=0.2)
        add(p + "mlp.down_proj.weight", 32, 48, std=0.2)
    add("model.norm.weight", 32, std=0.1, mean=1.0)
    return out


def make_weights():
    def save(kind, tensors):
        save_file(tensors, os.path.join(HERE, f"weights_{kind}.safetensors"), metadata={"format": "pt"})

    plain = random_weights(bias=False)
    save("f32", plain)
    save("f16", {name: tensor.half() for name, tensor in plain.items()})
    save("bf16", {name: tensor.bfloat16() for name, tensor in plain.items()})
    # Several types in one file, and biases.
    kinds = {"bias": torch.float32, "norm": torch.bfloat16}
    save("bias", {name: tensor.to(next((t for word, t in kinds.items() if word in name), torch.float16))
                  for name, tensor in random_weights(bias=True).items()})


def sequences(vocab):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in LENGTHS]


def kept_rows():
    rows, first = [], 0
    for length in LENGTHS:
        step = 1 if length < 100 else 15 if length < 1000 else 73
        rows += range(first, first + length, step)
        first += length
    return rows + [first - 1]


@torch.no_grad()
def states(config, weights, prompts):
    """float32 [layers, tokens, hidden]; each prompt alone, so that nothing is padded."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config, file)
        settings = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
    runs = [model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[:-1] for ids in prompts]
    return torch.stack([torch.cat([run[layer][0] for run in runs]) for layer in range(len(runs[0]))])


def main():
    make_weights()
    plain = None
    for name, (source, config) in CASES.items():
        folder = os.path.join(REPOSITORY, source) if config is None else None
        file = os.path.join(folder, "model.safetensors") if folder else os.path.join(HERE, f"weights_{source}.safetensors")
        if folder:
            with open(os.path.join(folder, "config.json")) as stream:
                config = json.load(stream)
        prompts = sequences(config["vocab_size"])
        result = states(config, load_file(file), prompts)[:, kept_rows()].contiguous()
        result.numpy().astype("<f4").tofile(os.path.join(HERE, f"{name}.states"))
        with open(os.path.join(HERE, f"{name}.json"), "w") as stream:
            json.dump(dict(config=None if folder else config, weights=source if folder else os.path.basename(file),
                           sequences=prompts, rows=kept_rows()), stream)
            stream.write("\n")
        plain = result if plain is None else plain
        note = ""
        if result.shape == plain.shape:  # a case that computes what the plain one does would test nothing
            note = f", least cosine to the first case {torch.cosine_similarity(result, plain, dim=-1).min():.4f}"
        print(f"{name}: {tuple(result.shape)}{note}")


if __name__ == "__main__":
    main()
