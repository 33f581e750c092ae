#!/usr/bin/env python3
"""Makes the reference data of moerge/engine/decoder_test.cpp: hidden states that transformers computes in float32.

usage: python tests/engine/make_reference.py        (needs torch, transformers 5 and safetensors)

Writes beside itself:
  weights_KIND.safetensors   tiny random models that several cases share, from fixed seeds
  CASE.json                  "config" (a config.json), "weights" (a file here, or a model folder of the repository),
                             "rename" (parts of its tensors' names and what stands there instead; tensors that the
                             model does not know are left out), "sequences" (token ids), "rows" (which of all tokens,
                             counted through, are kept), "outputs": of the sequence with that number the log-probabilities
                             of its tokens but the first, and what the FFN (or the router) of each layer reads for its
                             last token: [layers, hidden]
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
SHORT_LENGTHS = [5, 100, 1, 37, 5]

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=32, intermediate_size=48, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, num_hidden_layers=3, vocab_size=64, max_position_embeddings=2048,
             rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", attention_bias=False, mlp_bias=False,
             tie_word_embeddings=True)
MISTRAL = {k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias")} | dict(
    architectures=["MistralForCausalLM"], model_type="mistral")

# Families over the weights "moe": heads of another size than hidden / heads, experts of 8 columns, shared ones of 16.
WIDE = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=24, num_hidden_layers=3, vocab_size=64,
            max_position_embeddings=2048, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=True)
DENSE = WIDE | dict(intermediate_size=16)
MIXTURE = WIDE | dict(num_experts=5, num_experts_per_tok=2, intermediate_size=99, moe_intermediate_size=8)
QWEN2 = DENSE | dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
QWEN3 = DENSE | dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3")
QWEN2_MOE = MIXTURE | dict(architectures=["Qwen2MoeForCausalLM"], model_type="qwen2_moe", shared_expert_intermediate_size=16)
QWEN3_MOE = MIXTURE | dict(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe")
MIXTRAL = WIDE | dict(architectures=["MixtralForCausalLM"], model_type="mixtral", intermediate_size=8, num_local_experts=5,
                      num_experts_per_tok=2)
DEEPSEEK = WIDE | dict(architectures=["DeepseekForCausalLM"], model_type="deepseek", n_routed_experts=5, n_shared_experts=2,
                       num_experts_per_tok=3, intermediate_size=99, moe_intermediate_size=8, first_k_dense_replace=0)
# The shared expert is the FFN of a dense model, and so on.
AS_DENSE = {"mlp.shared_expert.": "mlp."}
AS_MIXTRAL = {"mlp.": "block_sparse_moe.", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
AS_DEEPSEEK = {"mlp.shared_expert.": "mlp.shared_experts."}


def scaled(**scaling):
    return LLAMA | dict(rope_scaling=scaling)


def ramp(low, high):
    return [round(low + (high - low) * i / 7, 2) for i in range(8)]


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
# Name: weights, configuration, renamed parts of their names. Over short prompts.
FAMILY_CASES = {
    "rope_dynamic_beyond": ("f32", scaled(rope_type="dynamic", factor=4.0) | dict(max_position_embeddings=30), {}),
    "rope_long": ("f32", scaled(rope_type="longrope", short_factor=ramp(1, 1.5), long_factor=ramp(1, 20),
                                original_max_position_embeddings=64), {}),
    "qwen2": ("moe", QWEN2 | dict(use_sliding_window=True, sliding_window=20, max_window_layers=1), AS_DENSE),
    "qwen3": ("moe", QWEN3, AS_DENSE),
    "qwen3_bias": ("moe", QWEN3 | dict(attention_bias=True, use_sliding_window=True, sliding_window=20, layer_types=[
        "sliding_attention", "full_attention", "full_attention"]), AS_DENSE),
    "mixtral": ("moe", MIXTRAL | dict(sliding_window=40), AS_MIXTRAL),
    "qwen2_moe": ("moe", QWEN2_MOE, {}),
    "qwen2_moe_options": ("moe", QWEN2_MOE | dict(norm_topk_prob=True, qkv_bias=False, use_sliding_window=True,
                                                  sliding_window=20), {}),
    "qwen3_moe": ("moe", QWEN3_MOE | dict(norm_topk_prob=True), {}),
    "deepseek": ("moe", DEEPSEEK, AS_DEEPSEEK),
}


def random_tensor(name, *shape, std, mean=0.0):
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big"))
    return torch.randn(shape, generator=generator) * std + mean


def random_weights(bias):
    out = {}

    def add(name, *shape, **distribution):
        out[name] = random_tensor(name, *shape, **distribution)

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


def random_mixture():
    """The most that a model of WIDE can have, by Qwen2-MoE's names."""
    out = {}

    def add(name, *shape, **distribution):
        out[name] = random_tensor(name, *shape, **distribution)

    def add_ffn(prefix, columns):
        for name, shape in [("gate", (columns, 32)), ("up", (columns, 32)), ("down", (32, columns))]:
            add(f"{prefix}{name}_proj.weight", *shape, std=0.3)

    add("model.embed_tokens.weight", 64, 32, std=0.5)
    for layer in range(WIDE["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        add(p + "input_layernorm.weight", 32, std=0.1, mean=1.0)
        for name, rows, columns, std in [("q", 48, 32, 0.4), ("k", 24, 32, 0.4), ("v", 24, 32, 0.2), ("o", 32, 48, 0.2)]:
            add(f"{p}self_attn.{name}_proj.weight", rows, columns, std=std)
            add(f"{p}self_attn.{name}_proj.bias", rows, std=0.5)
        for name in "qk":
            add(f"{p}self_attn.{name}_norm.weight", 24, std=0.3, mean=1.5)
        add(p + "post_attention_layernorm.weight", 32, std=0.1, mean=1.0)
        add(p + "mlp.gate.weight", 5, 32, std=0.3)
        for expert in range(5):
            add_ffn(f"{p}mlp.experts.{expert}.", 8)
        add_ffn(p + "mlp.shared_expert.", 16)
        add(p + "mlp.shared_expert_gate.weight", 1, 32, std=0.3)
    add("model.norm.weight", 32, std=0.1, mean=1.0)
    return out


def make_weights():
    def save(kind, tensors):
        save_file(tensors, os.path.join(HERE, f"weights_{kind}.safetensors"), metadata={"format": "pt"})

    plain = random_weights(bias=False)
    save("f32", plain)
    save("f16", {name: tensor.half() for name, tensor in plain.items()})
    save("bf16", {name: tensor.bfloat16() for name, tensor in plain.items()})
    save("moe", random_mixture())
    # Several types in one file, and biases.
    kinds = {"bias": torch.float32, "norm": torch.bfloat16}
    save("bias", {name: tensor.to(next((t for word, t in kinds.items() if word in name), torch.float16))
                  for name, tensor in random_weights(bias=True).items()})


def renamed(name, parts):
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def sequences(vocab, lengths):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in lengths]


def kept_rows(lengths):
    rows, first = [], 0
    for length in lengths:
        step = 73 if length >= 1000 else 15 if length >= 100 else 1 if lengths is LENGTHS else 3
        rows += range(first, first + length, step)
        first += length
    return rows + [first - 1]


class DeepseekFfn(torch.nn.Module):
    """As the paper (arXiv 2401.06066, equations 9 to 11) describes it: transformers has no such model."""

    def __init__(self, config, weights, prefix):
        super().__init__()
        self.config = config
        self.of = lambda name: weights[f"{prefix}{name}.weight"].float()

    def ffn(self, name, u):
        gate, up, down = (self.of(f"{name}.{part}_proj") for part in ("gate", "up", "down"))
        return (torch.nn.functional.silu(u @ gate.T) * (u @ up.T)) @ down.T

    def forward(self, u):
        shares = torch.softmax(u @ self.of("gate").T, dim=-1)
        best = shares.topk(self.config["num_experts_per_tok"], dim=-1)
        weights = best.values / best.values.sum(dim=-1, keepdim=True) if self.config.get("norm_topk_prob") else best.values
        chosen = torch.zeros_like(shares).scatter(-1, best.indices, weights)
        out = self.ffn("shared_experts", u) if self.config["n_shared_experts"] else torch.zeros_like(u)
        for expert in range(self.config["n_routed_experts"]):
            out = out + chosen[..., expert : expert + 1] * self.ffn(f"experts.{expert}", u)
        return out


def load_model(config, weights):
    is_deepseek = config["model_type"] == "deepseek"
    shown = config | dict(architectures=["LlamaForCausalLM"], model_type="llama") if is_deepseek else config
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(shown, file)
        save_file({k: v.float() for k, v in weights.items()}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    if is_deepseek:
        for i, layer in enumerate(model.model.layers):
            layer.mlp = DeepseekFfn(config, weights, f"model.layers.{i}.mlp.")
    missing = {name for name in report["missing_keys"] if name != "lm_head.weight" and not (is_deepseek and ".mlp." in name)}
    assert not missing and not report["mismatched_keys"], report
    return model.eval()


@torch.no_grad()
def states(config, weights, prompts):
    """float32 [layers, tokens, hidden]; each prompt alone, so that nothing is padded."""
    model = load_model(config, weights)
    runs = []
    for ids in prompts:
        # Some kinds remember the longest sequence that they have seen.
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        runs.append(model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[:-1])
    return torch.stack([torch.cat([run[layer][0] for run in runs]) for layer in range(len(runs[0]))])


@torch.no_grad()
def outputs(config, weights, prompts):
    number = max(range(len(prompts)), key=lambda i: len(prompts[i]) if len(prompts[i]) < 100 else 0)
    model, inputs = load_model(config, weights), []
    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_hook(lambda module, args, out: inputs.append(out[0, -1]))
    ids = torch.tensor(prompts[number])
    logits = model(ids[None], use_cache=False).logits[0, :-1]
    found = torch.log_softmax(logits.double(), dim=-1).gather(1, ids[1:, None])[:, 0]
    rounded = lambda values: [float(f"{value:.6g}") for value in values.tolist()]
    return dict(sequence=number, log_probabilities=rounded(found), router_inputs=[rounded(row) for row in inputs])


def main():
    make_weights()
    plain = None
    cases = [(name, *case, {}, LENGTHS) for name, case in CASES.items()]
    cases += [(name, *case, SHORT_LENGTHS) for name, case in FAMILY_CASES.items()]
    for name, source, config, parts, lengths in cases:
        folder = os.path.join(REPOSITORY, source) if config is None else None
        file = os.path.join(folder, "model.safetensors") if folder else os.path.join(HERE, f"weights_{source}.safetensors")
        if folder:
            with open(os.path.join(folder, "config.json")) as stream:
                config = json.load(stream)
        prompts, rows = sequences(config["vocab_size"], lengths), kept_rows(lengths)
        weights = {renamed(key, parts): tensor for key, tensor in load_file(file).items()}
        result = states(config, weights, prompts)[:, rows].contiguous()
        result.numpy().astype("<f4").tofile(os.path.join(HERE, f"{name}.states"))
        case = dict(config=None if folder else config, weights=source if folder else os.path.basename(file),
                    sequences=prompts, rows=rows, outputs=outputs(config, weights, prompts))
        with open(os.path.join(HERE, f"{name}.json"), "w") as stream:
            json.dump(case | (dict(rename=parts) if parts else {}), stream)
            stream.write("\n")
        plain = result if plain is None else plain
        note = ""
        if result.shape == plain.shape:  # a case that computes what the plain one does would test nothing
            note = f", least cosine to the first case {torch.cosine_similarity(result, plain, dim=-1).min():.4f}"
        print(f"{name}: {tuple(result.shape)}{note}")


if __name__ == "__main__":
    main()
