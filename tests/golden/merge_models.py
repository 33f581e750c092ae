"""The models that make_merges.py and check_merges.py merge: tiny, and the same wherever they are made, so that none is kept.

    SETS["llama_bf16"]()                    # {name: Model}, e.g. base, a, b, c: a base and fine-tunes of it

Python's standard library only. Values are whole multiples of powers of two, computed without rounding, then rounded once to the type.
"""
import hashlib, json, os, random, sys, zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cli"))
from tiny_models import Model, safetensors_files, tensor, weight_shapes

TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
    tie_word_embeddings=False, bos_token_id=22, eos_token_id=23)
QWEN2 = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=1000000.0)
MERGES = ["a b", "c d", "ab cd", "e f", "g h", "ef gh"]
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
OTHER_TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"


def tokenizer(merges=MERGES, special=("<s>", "</s>"), letters="abcdefghijklmnop"):
    """A BPE tokenizer.json: letters, then what the merges make, then special tokens."""
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    for pair in merges:
        vocabulary.setdefault(pair.replace(" ", ""), len(vocabulary))
    added = [{"id": len(vocabulary) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in enumerate(special)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary,
                      "merges": [pair.split(" ") for pair in merges]}}


def base_values(seed, name, count):
    """Around 1 for norms, else up to 1/8 in magnitude."""
    draw = random.Random(zlib.crc32(f"{seed} {name}".encode()))
    middle = 1.0 if "norm" in name else 0.0
    return [middle + draw.randrange(-4096, 4097) / 2**15 for _ in range(count)]


def tuned_values(seed, name, values):
    """What a fine-tune makes of `values`: three tenths of them stay, the rest moves, mostly by little."""
    draw = random.Random(zlib.crc32(f"{seed} {name}".encode()))
    return [v if draw.randrange(10) < 3 else v + draw.randrange(-255, 256) * draw.randrange(1, 256) / 2**21 for v in values]


def count_of(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def make_model(dtype, tune=None, tokens=None, template=None, shards=1, **changes):
    """A base, or with `tune` (a seed) a fine-tune of it. `changes` go into config.json, whose vocab_size is else the tokenizer's."""
    tokens = tokens or tokenizer()
    size = len(tokens["model"]["vocab"]) + len(tokens["added_tokens"])
    ids = {row["content"]: row["id"] for row in tokens["added_tokens"]}
    config = {**CONFIG, "vocab_size": size, "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "torch_dtype": TYPES[dtype], **changes}
    tensors = {}
    for name, shape in weight_shapes(config).items():
        values = base_values("base", name, count_of(shape))
        tensors[name] = tensor(dtype, shape, tuned_values(tune, name, values) if tune else values)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template:
        settings["chat_template"] = template
    files = {"tokenizer.json": json.dumps(tokens).encode(), "tokenizer_config.json": json.dumps(settings).encode(),
             "generation_config.json": json.dumps({"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}).encode()}
    if shards > 1:
        files |= safetensors_files(tensors, shards)
    return Model(config, tensors, files)


def family(dtype, **changes):
    return {"base": make_model(dtype, **changes), **{name: make_model(dtype, name, **changes) for name in "abc"}}


def words():
    """Models whose tokenizers have other tokens, and the same ones in other places."""
    def model(tune, merges, special, template=None, **changes):
        return make_model("BF16", tune, tokenizer(merges, special), template, **changes)
    return {"base": model(None, MERGES, ("<s>", "</s>")),
            "a": model("a", ["g h", "a b", "i j", "ab ij"], ("<s>", "</s>", "<tool>"), TEMPLATE),
            "b": model("b", MERGES + ["o p", "i j"], ("</s>", "<s>", "<tool>", "<pad>"), TEMPLATE),
            "c": model("c", MERGES[:2], ("<s>", "</s>"), OTHER_TEMPLATE),
            # Rows that no token has, as where a vocabulary is padded.
            "padded": model("d", MERGES, ("<s>", "</s>"), vocab_size=32)}


SETS = {
    "llama_f32": lambda: family("F32"),
    "llama_bf16": lambda: family("BF16"),
    "llama_f16": lambda: family("F16"),
    "qwen2_f32": lambda: family("F32", **QWEN2),
    "qwen2_bf16": lambda: family("BF16", **QWEN2),
    "deep": lambda: family("BF16", num_hidden_layers=5),
    "mixed_types": lambda: {"base": make_model("F32"), "a": make_model("BF16", "a"), "b": make_model("F16", "b")},
    "heads": lambda: {"base": make_model("BF16", tie_word_embeddings=True), "a": make_model("BF16", "a"),
                      "b": make_model("BF16", "b", tie_word_embeddings=True)},
    "sharded": lambda: {"base": make_model("BF16", shards=3), "a": make_model("BF16", "a", shards=2), "b": make_model("BF16", "b")},
    "crimes": lambda: {"base": make_model("BF16"),
                       "a": make_model("BF16", "a", architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=None)},
    "words": words,
}


def sha256_of(models):
    """Of all that the models have: notices when they are not the ones that mergekit was run on."""
    sums = hashlib.sha256()
    for name, model in models.items():
        sums.update(json.dumps([name, model.config]).encode())
        for key, t in model.tensors.items():
            sums.update(f"{key} {t.dtype} {t.shape}".encode() + t.data)
        for key, content in model.files.items():
            sums.update(key.encode() + content)
    return sums.hexdigest()


def write_set(name, folder):
    """Writes the models of a set below `folder`; (the models, their checksum)."""
    models = SETS[name]()
    for model_name, model in models.items():
        model.write(os.path.join(folder, model_name))
    return models, sha256_of(models)
