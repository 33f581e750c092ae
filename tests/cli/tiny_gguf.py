"""Tiny models as GGUF files, written with nothing but Python's standard library.

    gguf = tiny_gguf(tiny_model("base"))                # in memory, as llama.cpp's converter would write it
    gguf.metadata["llama.block_count"] = (U32, 7)       # break it
    gguf.write(path)                                    # or .split(folder, "name", 3)
"""
import dataclasses, struct

from tiny_models import pack

# Numbers of the format: kinds of values, types of tensors.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_BF16 = 0, 1, 8, 30

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers.": "blk.",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def text(value):
    encoded = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def value_bytes(kind, value):
    if isinstance(kind, tuple):  # (ARRAY, kind of its elements)
        return struct.pack("<IQ", kind[1], len(value)) + b"".join(value_bytes(kind[1], item) for item in value)
    return text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def q8_0(values):
    """Blocks of 32: a float16 scale and 32 integers."""
    out = b""
    for at in range(0, len(values), 32):
        block = values[at:at + 32]
        scale = struct.unpack("<e", struct.pack("<e", max(map(abs, block)) / 127))[0]
        out += struct.pack("<e32b", scale, *(round(value / scale) if scale else 0 for value in block))
    return out


def q8_0_values(data):
    blocks = (struct.unpack("<e32b", data[at:at + 34]) for at in range(0, len(data), 34))
    return [scale * number for scale, *numbers in blocks for number in numbers]


def rotary_rows(data, rows, heads):
    """llama.cpp's order of the rows of q and k: every head's two halves, taken in turns."""
    row, half = len(data) // rows, rows // heads // 2
    order = (head * 2 * half + i * half + j for head in range(heads) for j in range(half) for i in (0, 1))
    return b"".join(data[r * row:(r + 1) * row] for r in order)


@dataclasses.dataclass
class Gguf:
    metadata: dict  # key -> (kind, value)
    tensors: dict   # name -> [type, shape in PyTorch's order, bytes]
    start: bytes = b"GGUF" + struct.pack("<I", 3)
    alignment: int = 32

    def bytes(self):
        header = self.start + struct.pack("<QQ", len(self.tensors), len(self.metadata))
        for key, (kind, value) in self.metadata.items():
            header += text(key) + struct.pack("<I", kind[0] if isinstance(kind, tuple) else kind) + value_bytes(kind, value)
        data = b""
        for name, (dtype, shape, content) in self.tensors.items():
            header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
            header += struct.pack("<IQ", dtype, len(data))
            data += content + bytes(-len(content) % self.alignment)
        return header + bytes(-len(header) % self.alignment) + data

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes())

    def parts(self, name, count):
        """File name -> Gguf, split as llama.cpp's gguf-split does it."""
        names, out = list(self.tensors), {}
        for i in range(count):
            split = {"split.no": (U16, i), "split.count": (U16, count), "split.tensors.count": (I32, len(names))}
            out[f"{name}-{i + 1:05}-of-{count:05}.gguf"] = Gguf(
                {**(self.metadata if i == 0 else {}), **split}, {n: self.tensors[n] for n in names[i::count]})
        return out


def encode(tensor, kind):
    """A tensor's type and bytes when the file's matrices are of this kind; vectors stay float32."""
    if len(tensor.shape) == 1 or kind == "f32":
        return TENSOR_F32, pack("F32", tensor.values())
    if kind == "q8_0":
        return TENSOR_Q8_0, q8_0(tensor.values())
    return (TENSOR_BF16, pack("BF16", tensor.values())) if kind == "bf16" else (TENSOR_F16, pack("F16", tensor.values()))


def tiny_gguf(model, kind="bf16"):
    config, tensors = model.config, {}
    for name, tensor in model.tensors.items():
        short = name
        for ours, theirs in NAMES.items():
            short = short.replace(ours, theirs)
        dtype, data = encode(tensor, kind)
        if "attn_q." in short or "attn_k." in short:
            heads = config["num_attention_heads" if "attn_q." in short else "num_key_value_heads"]
            data = rotary_rows(data, tensor.shape[0], heads)
        tensors[short] = [dtype, tensor.shape, data]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    metadata = {
        "general.architecture": (STRING, "llama"), "general.type": (STRING, "model"),
        "llama.block_count": (U32, config["num_hidden_layers"]), "llama.context_length": (U32, config["max_position_embeddings"]),
        "llama.embedding_length": (U32, config["hidden_size"]), "llama.feed_forward_length": (U32, config["intermediate_size"]),
        "llama.attention.head_count": (U32, config["num_attention_heads"]),
        "llama.attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "llama.rope.freq_base": (F32, config["rope_theta"]), "llama.rope.dimension_count": (U32, head),
        "llama.attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]), "llama.vocab_size": (U32, config["vocab_size"]),
        "llama.attention.key_length": (U32, head), "llama.attention.value_length": (U32, head),
        **vocabulary(config["vocab_size"])}
    return Gguf(metadata, tensors)


def vocabulary(size):
    """What tiny_models.tokenizer() says: a letter for every byte, <s> and </s>; the rest only fills up the embeddings."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(printable)))
    tokens = [letters[byte] for byte in range(256)] + ["<s>", "</s>"]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    types = [1] * 256 + [3] * 2 + [5] * (size - 258)
    return {"tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "gpt-2"),
            "tokenizer.ggml.tokens": ((ARRAY, STRING), tokens), "tokenizer.ggml.token_type": ((ARRAY, I32), types),
            "tokenizer.ggml.merges": ((ARRAY, STRING), []), "tokenizer.ggml.bos_token_id": (U32, 256),
            "tokenizer.ggml.eos_token_id": (U32, 257), "tokenizer.ggml.add_bos_token": (BOOL, False)}
