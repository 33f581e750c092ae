#!/usr/bin/env python3
"""Makes the models that the benchmarks build from, with random weights (bf16, norms 1) in the shapes of models that there are:

  135m  SmolLM2-135M, four of them      1.1b  TinyLlama-1.1B, four of them, 8.8 GB      7b  Mistral-7B, two of them, 29 GB

usage: make_models.py FOLDER [--shape 1.1b] [--layers N] [--models a,b,base]
writes FOLDER/{base,a,b,c} (or those that are named) and FOLDER/GATE_MODE.yaml

The files are laid out as the safetensors library and the Hub have them: tensors sorted by name, the header padded to 8 bytes,
shards of at most 5 GB with an index. Python's standard library only. Weights are +-[2^-7, 2^-5), so that a forward pass stays
finite; all come from one block of random values, which every tensor begins at another place.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import random
import shutil
import struct

FAMILY = pathlib.Path(__file__).resolve().parent.parent / "examples" / "family"
SIGNED = bytes((b & 0x80) | 0x3C for b in range(256))  # the high byte of a bf16 value: sign, and an exponent of -7 or -6
BLOCK, SHARD = 64 << 20, 5 * 10**9
GATE_MODES = ("random", "cheap_embed", "hidden")
PROMPTS = {
    "a": ["code", "python", "javascript", "programming", "algorithm"],
    "b": ["reason", "math", "mathematics", "solve", "count"],
    "c": ["storywriting", "write", "scene", "story", "character"],
    "base": ["chat", "assistant", "tell me", "explain", "I want"],
}


@dataclasses.dataclass(frozen=True)
class Shape:
    models: tuple
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False
    family: str = "Llama"
    rope_theta: float = 10000.0


SHAPES = {
    "135m": Shape(("a", "b", "c", "base"), 30, 576, 1536, 9, 3, 49152, tied=True, rope_theta=100000.0),
    "1.1b": Shape(("a", "b", "c", "base"), 22, 2048, 5632, 32, 4, 32000),
    "7b": Shape(("a", "base"), 32, 4096, 14336, 32, 8, 32000, family="Mistral"),
}


def tensors(shape):
    """(name, dimensions) in the order in which the model has them."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "self_attn.q_proj.weight", (shape.hidden, shape.hidden)
        yield prefix + "self_attn.k_proj.weight", (kv, shape.hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, shape.hidden)
        yield prefix + "self_attn.o_proj.weight", (shape.hidden, shape.hidden)
        yield prefix + "mlp.gate_proj.weight", (shape.ffn, shape.hidden)
        yield prefix + "mlp.up_proj.weight", (shape.ffn, shape.hidden)
        yield prefix + "mlp.down_proj.weight", (shape.hidden, shape.ffn)
        yield prefix + "input_layernorm.weight", (shape.hidden,)
        yield prefix + "post_attention_layernorm.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def bytes_of(dimensions):
    return 2 * math.prod(dimensions)


def model_bytes(shape):
    return sum(bytes_of(dimensions) for _, dimensions in tensors(shape))


def random_block():
    block = bytearray(BLOCK)
    block[0::2] = os.urandom(BLOCK // 2)
    block[1::2] = os.urandom(BLOCK // 2).translate(SIGNED)
    return memoryview(block)


def write_values(file, dimensions, block, dice):
    left = bytes_of(dimensions)
    if len(dimensions) == 1:
        file.write(b"\x80\x3f" * (left // 2))  # 1.0
        return
    start = 2 * dice.randrange(BLOCK // 2)
    while left > 0:
        part = block[start:start + left]
        file.write(part)
        left -= len(part)
        start = 0


def write_file(path, contents, block, dice):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dimensions in sorted(contents.items()):
        end = offset + bytes_of(dimensions)
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dimensions in sorted(contents.items()):
            write_values(file, dimensions, block, dice)
        file.flush()
        os.fsync(file.fileno())


def write_model(folder, shape, block):
    folder.mkdir(parents=True)
    shards, size = [{}], 0
    for name, dimensions in tensors(shape):
        if size + bytes_of(dimensions) > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = dimensions
        size += bytes_of(dimensions)
    dice, weight_map = random.Random(folder.name), {}
    for number, contents in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(folder / name, contents, block, dice)
        weight_map.update(dict.fromkeys(contents, name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": model_bytes(shape)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {"architectures": [shape.family + "ForCausalLM"], "model_type": shape.family.lower(), "hidden_size": shape.hidden,
              "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
              "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab, "max_position_embeddings": 2048,
              "rms_norm_eps": 1e-5, "rope_theta": shape.rope_theta, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
              "tie_word_embeddings": shape.tied, "torch_dtype": "bfloat16"}
    if shape.family == "Mistral":
        config["sliding_window"] = None
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(FAMILY / "base" / name, folder / name)


def write_yamls(folder, base, experts):
    """One YAML for each gate mode. `base`: a folder; `experts`: folder -> prompts."""
    for mode in GATE_MODES:
        lines = [f"base_model: {base}", f"gate_mode: {mode}", "dtype: bfloat16", "experts:"]
        for model, prompts in experts.items():
            lines += [f"  - source_model: {model}", f"    positive_prompts: {json.dumps(prompts)}"]
        (folder / f"{mode}.yaml").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--layers", type=int, help="instead of as many as the shape has")
    parser.add_argument("--models", type=lambda text: tuple(text.split(",")), help="instead of those of the shape")
    arguments = parser.parse_args()
    folder, shape = arguments.folder.resolve(), SHAPES[arguments.shape]
    if arguments.models:
        shape = dataclasses.replace(shape, models=arguments.models)
    if arguments.layers:
        shape = dataclasses.replace(shape, layers=arguments.layers)
    block = random_block()
    for name in shape.models:
        if not (folder / name).exists():
            write_model(folder / name, shape, block)
    write_yamls(folder, folder / "base", {folder / name: PROMPTS[name] for name in shape.models})


if __name__ == "__main__":
    main()
