"""Tiny models for the tests: made, broken and read back with nothing but Python's standard library.

    model = tiny_model("base", rope_theta=5e5)      # in memory; same name, same random weights
    del model.tensors["model.norm.weight"]          # break it
    model.write(folder)                             # config.json, model.safetensors, tokenizer.json, ...

    read_checkpoint(folder)                         # {tensor name: Tensor}, whatever the number of shards
"""
import dataclasses, json, math, random, struct, zlib
from pathlib import Path

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "I8": 1, "I64": 8, "U8": 1, "BOOL": 1}

# Small, and yet no two dimensions that a mistake could swap are equal.
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=260, hidden_size=32, intermediate_size=48,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5,
    rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, torch_dtype="bfloat16", bos_token_id=256, eos_token_id=257)

# --------------------------------------------------------------------------------------------------------------- tensors


@dataclasses.dataclass
class Tensor:
    dtype: str
    shape: list
    data: bytes

    def values(self):
        if self.dtype == "BF16":  # the upper half of a float32
            wide = bytearray(2 * len(self.data))
            wide[2::4], wide[3::4] = self.data[0::2], self.data[1::2]
            return list(struct.unpack(f"<{len(wide) // 4}f", wide))
        letter = {"F16": "e", "F32": "f", "F64": "d"}[self.dtype]
        return list(struct.unpack(f"<{len(self.data) // BYTES[self.dtype]}{letter}", self.data))


def pack(dtype, values):
    """Bytes of numbers; bfloat16 rounds to nearest, ties to even."""
    if dtype != "BF16":
        return struct.pack(f"<{len(values)}{ {'F16': 'e', 'F32': 'f', 'F64': 'd'}[dtype]}", *values)
    out = []
    for bits in struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values)):
        nan = bits & 0x7fffffff > 0x7f800000
        out.append((bits >> 16) | 0x40 if nan else (bits + 0x7fff + (bits >> 16 & 1)) >> 16)
    return struct.pack(f"<{len(out)}H", *out)


def tensor(dtype, shape, values):
    return Tensor(dtype, list(shape), pack(dtype, values))


def zeros(dtype, shape):
    return Tensor(dtype, list(shape), bytes(math.prod(shape) * BYTES[dtype]))


SIGN_AND_EXPONENT = bytes(0xBD if i % 2 else 0x3D for i in range(256))  # upper bytes of bfloat16 numbers in +-[1/32, 1/8)


def random_tensor(seed, shape, dtype="BF16"):
    """Values in +-[1/32, 1/8); drawn as bytes, so that models of many megabytes are quick to make."""
    count = math.prod(shape)
    source = random.Random(zlib.crc32(seed.encode()))
    data = bytearray(2 * count)
    data[0::2] = source.randbytes(count)
    data[1::2] = source.randbytes(count).translate(SIGN_AND_EXPONENT)
    made = Tensor("BF16", list(shape), bytes(data))
    return made if dtype == "BF16" else tensor(dtype, shape, made.values())


# ---------------------------------------------------------------------------------------------------------------- models


def weight_shapes(config):
    """Name -> shape of every tensor that a model with this config.json has."""
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [vocab, hidden]
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {"input_layernorm": [hidden], "post_attention_layernorm": [hidden],
                            "self_attn.q_proj": [heads * head, hidden], "self_attn.k_proj": [kv * head, hidden],
                            "self_attn.v_proj": [kv * head, hidden], "self_attn.o_proj": [hidden, heads * head],
                            "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden],
                            "mlp.down_proj": [hidden, ffn]}.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
        attention = f"model.layers.{layer}.self_attn."
        if config["model_type"] == "qwen2":
            shapes |= {f"{attention}{part}_proj.bias": [n * head] for part, n in (("q", heads), ("k", kv), ("v", kv))}
        if config["model_type"] == "qwen3":
            shapes |= {f"{attention}q_norm.weight": [head], f"{attention}k_norm.weight": [head]}
    return shapes


class Model:
    """A model folder in memory: change what you like, then write() it."""

    def __init__(self, config, tensors, files):
        self.config = config
        self.tensors = tensors
        self.files = files  # name -> bytes; config.json and the weights come on top unless they are in here

    def write(self, folder, shards=1):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = dict(self.files)
        if "config.json" not in files:
            files["config.json"] = json.dumps(self.config, indent=1).encode()
        if not any(name.startswith("model") for name in files):
            files |= safetensors_files(self.tensors, shards)
        for name, content in files.items():
            if content is not None:
                (folder / name).write_bytes(content)


def tiny_model(name, dtype="BF16", **changes):
    """A Llama (or what model_type says) with random weights. `changes` go into config.json; a value of None removes the key there."""
    config = {**CONFIG, **changes}
    if config["model_type"] == "qwen3":  # whose class has a head_dim of its own
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    tensors = {}
    for weight, shape in weight_shapes(config).items():
        is_norm = "norm" in weight
        tensors[weight] = tensor(dtype, shape, [1.0] * shape[0]) if is_norm else random_tensor(name + weight, shape, dtype)
    config = {key: value for key, value in config.items() if value is not None}
    files = {"tokenizer.json": json.dumps(tokenizer()).encode(),
             "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}).encode(),
             "generation_config.json": b'{"bos_token_id": 256,  "eos_token_id": 257}\n'}
    return Model(config, tensors, files)


def tokenizer(special=("<s>", "</s>"), merges=False):
    """A valid tokenizer.json: every byte is a token (its number is its id), with `merges` also "th"; special tokens follow."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(printable)))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {letter: byte for byte, letter in sorted(letters.items())} | ({"th": 256} if merges else {})
    added = [{"id": len(vocabulary) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in enumerate(special)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocabulary, "merges": ["t h"] if merges else []}}


# ----------------------------------------------------------------------------------------------------------- safetensors


def safetensors(header, data=b"", length=None):
    """A file from a header (bytes as they are, or what becomes JSON); `length` lies about the header's size."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def safetensors_files(tensors, shards=1):
    """File name -> bytes: model.safetensors, or as many shards and their index. The header is padded, as the library does it."""
    def one(names):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for name in names:
            t = tensors[name]
            header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [len(data), len(data) + len(t.data)]}
            data += t.data
        text = json.dumps(header).encode()
        return safetensors(text + b" " * (-len(text) % 8), data)

    if shards == 1:
        return {"model.safetensors": one(tensors)}
    names, files, index = list(tensors), {}, {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        files[file] = one(names[i::shards])
        index |= {name: file for name in names[i::shards]}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    return files


def read_safetensors(path):
    content = Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    data, tensors = 8 + length, {}
    for name, entry in json.loads(content[8:data]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = Tensor(entry["dtype"], entry["shape"], content[data + begin:data + end])
    return tensors


def read_checkpoint(folder):
    """All tensors; with an index, they must be exactly those that it names, each in its shard."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    weights, tensors = json.loads(index.read_text())["weight_map"], {}
    for file in sorted(set(weights.values())):
        shard = read_safetensors(folder / file)
        assert sorted(shard) == sorted(name for name in weights if weights[name] == file), f"{file} is not what the index says"
        tensors |= shard
    return tensors
