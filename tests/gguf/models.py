"""Writes the model folders of the GGUF tests: a case of suite.py in, config.json, weights and tokenizer files out.

Nothing but Python's standard library. Every number comes from a fixed seed, so that make.py, which runs llama.cpp's
converter, and check.py, which runs moerge, see the same bytes without the weights being in the repository.
"""
import json, os, random, struct

import vocabularies

ABSENT = object()  # in a case's config: leave the key out
BYTES = {"BF16": 2, "F16": 2, "F32": 4}
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

# What the classes of transformers' models put in for an absent key, as far as it decides about the shape of a weight.
CLASS_DEFAULTS = {"mistral": {"num_key_value_heads": 8}, "mixtral": {"num_key_value_heads": 8},
                  "qwen3": {"head_dim": 128, "num_key_value_heads": 32}, "qwen2": {"num_key_value_heads": 32},
                  "qwen2_moe": {"num_key_value_heads": 16}, "qwen3_moe": {"num_key_value_heads": 4}}
ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral", "qwen2": "Qwen2", "qwen3": "Qwen3",
                 "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "deepseek": "Deepseek"}
EXPERTS_KEY = {"mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_experts",
               "deepseek": "n_routed_experts"}

# --------------------------------------------------------------------------------------------------------------- config

FAMILY_KEYS = {
    "llama": dict(attention_bias=False, attention_dropout=0.0, mlp_bias=False, pretraining_tp=1, rope_scaling=None),
    "mistral": dict(attention_dropout=0.0, sliding_window=4096),
    "mixtral": dict(attention_dropout=0.0, num_experts_per_tok=2, num_local_experts=4, output_router_logits=False,
                    router_aux_loss_coef=0.02, sliding_window=None, rope_theta=1000000.0),
    "qwen2": dict(attention_dropout=0.0, max_window_layers=2, sliding_window=32768, use_sliding_window=False,
                  rope_theta=1000000.0, rms_norm_eps=1e-6),
    "qwen3": dict(attention_bias=False, attention_dropout=0.0, head_dim=32, max_window_layers=2, rope_scaling=None,
                  sliding_window=None, use_sliding_window=False, rope_theta=1000000, rms_norm_eps=1e-6),
    "qwen2_moe": dict(attention_dropout=0.0, decoder_sparse_step=1, max_window_layers=2, moe_intermediate_size=32,
                      norm_topk_prob=False, num_experts=4, num_experts_per_tok=2, output_router_logits=False,
                      router_aux_loss_coef=0.001, shared_expert_intermediate_size=64, sliding_window=32768,
                      use_sliding_window=False, rope_theta=1000000.0, rms_norm_eps=1e-6),
    "qwen3_moe": dict(attention_bias=False, attention_dropout=0.0, decoder_sparse_step=1, head_dim=32,
                      max_window_layers=2, mlp_only_layers=[], moe_intermediate_size=32, norm_topk_prob=True,
                      num_experts=4, num_experts_per_tok=2, output_router_logits=False, rope_scaling=None,
                      router_aux_loss_coef=0.001, sliding_window=None, use_sliding_window=False, rope_theta=1000000.0,
                      rms_norm_eps=1e-6),
    "deepseek": dict(attention_bias=False, attention_dropout=0.0, aux_loss_alpha=0.001, first_k_dense_replace=1,
                     moe_intermediate_size=32, moe_layer_freq=1, n_routed_experts=4, n_shared_experts=2,
                     norm_topk_prob=False, num_experts_per_tok=2, pretraining_tp=1, rope_scaling=None,
                     scoring_func="softmax", seq_aux=True, rms_norm_eps=1e-6),
}


def config_of(case, vocab_size):
    """config.json of a case. `config` in the case overrides; ABSENT there takes a key away, None stays as null."""
    family = case["family"]
    config = dict(
        architectures=[ARCHITECTURES[family] + "ForCausalLM"], bos_token_id=1, eos_token_id=2, hidden_act="silu",
        hidden_size=64, initializer_range=0.02, intermediate_size=128, max_position_embeddings=2048, model_type=family,
        num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=False, torch_dtype=TORCH[case.get("dtype", "BF16")], transformers_version="4.40.0",
        use_cache=True, vocab_size=vocab_size)
    config.update(FAMILY_KEYS[family])
    config.update(case.get("config", {}))
    return {k: v for k, v in sorted(config.items()) if v is not ABSENT}


# -------------------------------------------------------------------------------------------------------------- weights

# The sign and the upper bits of the exponent: numbers of either sign below 0.125; for norms positive ones around 1.
HIGH_BYTES = {"BF16": [0x3A, 0x3B, 0x3C, 0x3D, 0xBA, 0xBB, 0xBC, 0xBD], "F16": [*range(0x20, 0x30), *range(0xA0, 0xB0)]}
HIGH_BYTES["F32"] = HIGH_BYTES["BF16"]
HIGH_BYTES_OF_NORMS = {"BF16": [0x3F], "F16": [0x3A, 0x3B, 0x3C, 0x3D], "F32": [0x3F]}


def random_values(seed, count, dtype, norm=False):
    size = BYTES[dtype]
    choices = (HIGH_BYTES_OF_NORMS if norm else HIGH_BYTES)[dtype]
    data = bytearray(random.Random(seed).getrandbits(8 * count * size).to_bytes(count * size, "little"))
    data[size - 1::size] = data[size - 1::size].translate(bytes(choices[b % len(choices)] for b in range(256)))
    return bytes(data)


def encode(value, dtype):
    if dtype == "F16":
        return struct.pack("<e", value)
    data = struct.pack("<f", value)
    return data if dtype == "F32" else data[2:]


def awkward_values(dtype):
    """Blocks of 32 on which conversions go wrong: halves for Q8_0 with a scale of exactly 1, zeros, ties between two
    neighbours in the narrower types, subnormal numbers, and (where the type holds them) numbers beyond float16."""
    halves = [127.0] + [s * (i + 0.5) for i in range(15) for s in (1, -1)] + [-0.0]
    zeros = [0.0] * 31 + [-0.0]
    ties = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-9, -(1 + 2**-11)]
    small = [2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3 * 2.0**-25, -6e-8, 6.1e-5, 1e-7, -1e-7]
    if dtype != "F16":
        small += [1e-30, -1e-30, 1e-40, -1e-45, 65504.0, 65519.0, 65520.0, -7e4]
    row = (ties + small + [0.25] * 32)[:32]
    wide = [1.0] * 32 if dtype == "F16" else [8e6] + [1.0, -1.0] * 15 + [-8e6]
    return b"".join(encode(v, dtype) for v in halves + zeros + row + wide)


class Weights:
    """Tensors by name. `layout` says how the experts are stored; their values are the same either way."""

    def __init__(self, case, config):
        self.case, self.config, self.tensors = case, config, {}
        self.seed = case.get("values_of", case["name"])
        self.dtype = case.get("dtype", "BF16")
        self.other_dtypes = case.get("other_dtypes", {})
        self.fused = case.get("layout") == "fused"
        self.build()

    def values(self, name, shape):
        dtype = self.other_dtypes.get(name, self.dtype)
        count = 1
        for n in shape:
            count *= n
        return dtype, random_values(f"{self.seed}/{name}", count, dtype, name.endswith("norm.weight"))

    def add(self, name, *shape):
        dtype, data = self.values(name, shape)
        self.tensors[name] = (dtype, list(shape), data)

    def linear(self, name, out, into, bias=False):
        self.add(name + ".weight", out, into)
        if bias:
            self.add(name + ".bias", out)

    def ffn(self, prefix, size, bias=False):
        hidden = self.config["hidden_size"]
        self.linear(prefix + "gate_proj", size, hidden, bias)
        self.linear(prefix + "up_proj", size, hidden, bias)
        self.linear(prefix + "down_proj", hidden, size, bias)

    def experts(self, layer, count, size, names=("gate_proj", "up_proj", "down_proj")):
        """`names` are those of an expert's gate, up and down. One tensor an expert gives the values their seeds."""
        hidden, moe = self.config["hidden_size"], "block_sparse_moe" if names[0] == "w1" else "mlp"
        shapes = dict(zip(names, ([size, hidden], [size, hidden], [hidden, size])))
        made = {(e, n): self.values(f"{layer}{moe}.experts.{e}.{n}.weight", shapes[n])
                for e in range(count) for n in names}
        if not self.fused:
            for (e, n), (dtype, data) in made.items():
                self.tensors[f"{layer}{moe}.experts.{e}.{n}.weight"] = (dtype, shapes[n], data)
            return
        gate, up, down = names
        both = b"".join(made[e, n][1] for e in range(count) for n in (gate, up))
        self.tensors[f"{layer}mlp.experts.gate_up_proj"] = (self.dtype, [count, 2 * size, hidden], both)
        self.tensors[f"{layer}mlp.experts.down_proj"] = (
            self.dtype, [count, hidden, size], b"".join(made[e, down][1] for e in range(count)))

    def moe(self, layer):
        c, family = self.config, self.case["family"]
        hidden, count = c["hidden_size"], c[EXPERTS_KEY[family]]
        if family == "mixtral":
            router = f"{layer}block_sparse_moe.gate.weight"
            dtype, data = self.values(router, [count, hidden])
            self.tensors[f"{layer}mlp.gate.weight" if self.fused else router] = (dtype, [count, hidden], data)
            self.experts(layer, count, c["intermediate_size"], ("w1", "w3", "w2"))
            return
        self.add(f"{layer}mlp.gate.weight", count, hidden)
        self.experts(layer, count, c["moe_intermediate_size"])
        if family == "qwen2_moe":
            self.ffn(f"{layer}mlp.shared_expert.", c["shared_expert_intermediate_size"])
            self.add(f"{layer}mlp.shared_expert_gate.weight", 1, hidden)
        if family == "deepseek":
            self.ffn(f"{layer}mlp.shared_experts.", c["n_shared_experts"] * c["moe_intermediate_size"])

    def build(self):
        c, family = self.config, self.case["family"]
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        defaults = CLASS_DEFAULTS.get(family, {})
        head_dim = c.get("head_dim") or defaults.get("head_dim", hidden // heads)
        kv_heads = c.get("num_key_value_heads") or defaults.get("num_key_value_heads", heads)
        bias = c.get("attention_bias", family in ("qwen2", "qwen2_moe"))
        self.add("model.embed_tokens.weight", c["vocab_size"], hidden)
        for i in range(c["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            attention = layer + "self_attn."
            self.add(layer + "input_layernorm.weight", hidden)
            self.linear(attention + "q_proj", heads * head_dim, hidden, bias)
            self.linear(attention + "k_proj", kv_heads * head_dim, hidden, bias)
            self.linear(attention + "v_proj", kv_heads * head_dim, hidden, bias)
            self.linear(attention + "o_proj", hidden, heads * head_dim, bias and family not in ("qwen2", "qwen2_moe"))
            if family in ("qwen3", "qwen3_moe"):
                self.add(attention + "q_norm.weight", head_dim)
                self.add(attention + "k_norm.weight", head_dim)
            if self.case.get("inv_freq"):
                self.tensors[attention + "rotary_emb.inv_freq"] = (
                    "F32", [head_dim // 2],
                    b"".join(encode(10000 ** (-2 * j / head_dim), "F32") for j in range(head_dim // 2)))
            self.add(layer + "post_attention_layernorm.weight", hidden)
            if family in EXPERTS_KEY and i >= c.get("first_k_dense_replace", 0):
                self.moe(layer)
            else:
                self.ffn(layer + "mlp.", c["intermediate_size"], c.get("mlp_bias", False))
        self.add("model.norm.weight", hidden)
        if not c.get("tie_word_embeddings") or self.case.get("head_though_tied"):
            self.add("lm_head.weight", c["vocab_size"], hidden)
        if self.case.get("awkward"):
            name = "model.layers.0.mlp.up_proj.weight"
            dtype, shape, data = self.tensors[name]
            values = awkward_values(dtype)
            self.tensors[name] = (dtype, shape, values + data[len(values):])


# ---------------------------------------------------------------------------------------------------------------- files


def safetensors(tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(data for _, _, data in tensors.values())


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def write_json(path, data):
    write(path, json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def write_weights(folder, tensors, shard_count):
    if shard_count == 1:
        write(os.path.join(folder, "model.safetensors"), safetensors(tensors))
        return
    names, where = list(tensors), {}
    for i in range(shard_count):
        file = f"model-{i + 1:05}-of-{shard_count:05}.safetensors"
        part = {n: tensors[n] for n in names[i::shard_count]}
        write(os.path.join(folder, file), safetensors(part))
        where.update(dict.fromkeys(part, file))
    total = sum(len(data) for _, _, data in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_json(os.path.join(folder, "model.safetensors.index.json"), index)


def vocabulary_of(case):
    kind, options = case.get("vocabulary", ("gpt2", {}))
    return vocabularies.KINDS[kind](**options)


def folder_name(case):
    return case.get("folder", case["name"])


def write_model(case, parent, layout=None):
    """Makes the case's model folder inside `parent`, returns its path. `layout` says how the experts are stored, else
    the case does."""
    case = {**case, "layout": layout or case.get("layout")}
    vocabulary = vocabulary_of(case)
    config = config_of(case, case.get("vocab_size", vocabulary.size))
    folder = os.path.join(parent, folder_name(case))
    write_json(os.path.join(folder, "config.json"), config)
    write_weights(folder, Weights(case, config).tensors, case.get("shards", 1))
    for name, data in {**vocabulary.files, **case.get("files", {})}.items():
        if data is not ABSENT:
            if isinstance(data, dict):
                data = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
            write(os.path.join(folder, name), data)
    return folder
