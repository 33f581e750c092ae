"""GGUF files as base and experts: the same result as from the folders they were made of, and every refusal."""
import json, math, os, struct

from harness import rows
from tiny_gguf import (ARRAY, BOOL, F32, I32, STRING, TENSOR_F32, TENSOR_Q8_0, U32, U64, Gguf, q8_0_values, rotary_rows,
                       tiny_gguf)
from tiny_models import pack, random_tensor, tensor, tiny_model

MODELS = ("base", "one", "two")


def write_all(case, kind="bf16", change=lambda gguf: None, **config):
    """base, one and two as folders and as files of the same names and weights; `change` edits the base's file."""
    for name in MODELS:
        gguf = tiny_gguf(case.model(name, **config), kind)
        if name == "base":
            change(gguf)
        gguf.write(case.path(f"{name}.gguf"))


def yaml(case, *names, gate_mode="random", top="", file="gguf.yaml"):
    base, one, two = names or [f"{name}.gguf" for name in MODELS]
    case.yaml(file=file, text=f"base_model: {base}\ngate_mode: {gate_mode}\n{top}experts:\n"
                              f"  - source_model: {one}\n    positive_prompts: [\"def f(x):\", \"import os\"]\n"
                              f"  - source_model: {two}\n    positive_prompts: [\"2 + 2 =\", \"prove that\"]\n")
    return file


def same_tensors(a, b, but=()):
    assert a.tensors.keys() == b.tensors.keys()
    different = [name for name in a.tensors if a.tensors[name] != b.tensors[name] and not name.endswith(but or "\0")]
    assert not different, different


ROUTERS = "block_sparse_moe.gate.weight"

# --------------------------------------------------------------------------------------------------------- the same result


@rows({f"{kind}, {mode}": (kind, mode) for kind in ("bf16", "f16", "f32") for mode in ("random", "cheap_embed", "hidden")})
def test_result_of_the_folders(case, kind, mode):
    """Byte for byte. Only hidden states differ by rounding when the file holds the values in another type."""
    write_all(case, kind)
    from_files = case.built("--verify", config=yaml(case, gate_mode=mode, top="dtype: bfloat16\n"))
    case.yaml(gate_mode=mode, top="dtype: bfloat16\n")
    from_folders = case.built(out="folders")
    same_tensors(from_files, from_folders, but=ROUTERS if mode == "hidden" and kind != "bf16" else ())
    if mode == "hidden":
        for name in (n for n in from_files.tensors if n.endswith(ROUTERS)):
            a, b = from_files.tensors[name].values(), from_folders.tensors[name].values()
            cosine = sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
            assert cosine > 0.9999, (name, cosine)


@rows({"base": ("base.gguf", "one", "two"), "an expert": ("base", "one.gguf", "two"), "both ways": ("base.gguf", "base", "one")})
def test_beside_folders(case, *names):
    """No warning: tokenizers and numbers such as rms_norm_eps agree with the folders'."""
    write_all(case)
    with_files = case.built(config=yaml(case, *names, gate_mode="hidden"))
    folders = case.built(out="folders", config=yaml(case, *(n.removesuffix(".gguf") for n in names), gate_mode="hidden"))
    same_tensors(with_files, folders)


@rows({"plain": ({},), "tied": ({"tie_word_embeddings": True},), "wide heads": ({"head_dim": 16},),
       "other numbers": ({"rope_theta": 500000.0, "rms_norm_eps": 3e-6, "num_key_value_heads": 4},)})
def test_config_of_the_folders(case, config):
    write_all(case, **config)
    from_files = case.built(config=yaml(case)).config
    from_folders = case.built(out="folders").config
    assert from_files == from_folders, (from_files, from_folders)


@rows({"bf16": ("bf16", "bfloat16"), "f16": ("f16", "float16"), "f32": ("f32", "float32"), "q8_0": ("q8_0", "float16")})
def test_dtype(case, kind, dtype):
    write_all(case, kind, intermediate_size=64)
    assert case.built(config=yaml(case)).config["torch_dtype"] == dtype
    top = case.built(out="other", config=yaml(case, top="dtype: float32\n"))
    assert {t.dtype for t in top.tensors.values()} == {"F32"}


@rows({mode: (mode,) for mode in ("random", "cheap_embed", "hidden")})
def test_quantised_weights_are_their_values(case, mode):
    write_all(case, "q8_0", intermediate_size=64)
    built = case.built("--verify", config=yaml(case, gate_mode=mode)).tensors
    files = {name: tiny_gguf(tiny_model(name, intermediate_size=64), "q8_0").tensors for name in MODELS}

    def check(name, source, weight):
        dtype, shape, data = files[source][weight]
        assert dtype == TENSOR_Q8_0 and built[name].shape == shape
        assert built[name].data == pack("F16", q8_0_values(data)), name

    check("model.embed_tokens.weight", "base", "token_embd.weight")
    check("lm_head.weight", "base", "output.weight")
    for layer in range(2):
        for expert, source in enumerate(("one", "two")):
            for ours, theirs in {"w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"}.items():
                check(f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{ours}.weight", source,
                      f"blk.{layer}.{theirs}.weight")
        for letter, heads in {"q": 4, "k": 2}.items():
            stored = files["base"][f"blk.{layer}.attn_{letter}.weight"][2]
            found = built[f"model.layers.{layer}.self_attn.{letter}_proj.weight"]
            wanted = pack("F16", q8_0_values(stored))
            assert rotary_rows(found.data, found.shape[0], heads) == wanted  # reordered again, as in the file
            assert found.data != wanted


def test_quantised_hidden_gates_are_close(case):
    write_all(case, "q8_0", intermediate_size=64)
    from_files = case.built(config=yaml(case, gate_mode="hidden", top="dtype: float32\n")).tensors
    case.yaml(gate_mode="hidden", top="dtype: float32\n")
    from_folders = case.built(out="folders").tensors
    for name in (n for n in from_files if n.endswith(ROUTERS)):
        for row in (slice(0, 32), slice(32, 64)):
            a, b = from_files[name].values()[row], from_folders[name].values()[row]
            assert sum(x * y for x, y in zip(a, b)) > 0.999, name  # both at unit length


def test_fused_layout_and_noise(case):
    write_all(case)
    experts = "  - {{source_model: one{0}, noise_scale: 0.1}}\n  - {{source_model: two{0}, residual_scale: 0.3}}\n"
    for end in ("", ".gguf"):
        case.yaml(file=f"m{end}.yaml", text=f"base_model: base{end}\ngate_mode: random\nexperts:\n" + experts.format(end))
    for flags in ((), ("--layout", "fused")):
        files = case.built(*flags, "--overwrite", config="m.gguf.yaml")
        folders = case.built(*flags, "--overwrite", config="m.yaml", out="folders")
        same_tensors(files, folders)


# ------------------------------------------------------------------------------------------------------------- tokenizers


def test_tokenizer_files(case):
    def with_template(gguf):
        gguf.metadata["tokenizer.chat_template"] = (STRING, "{{ messages }}")
        gguf.metadata["tokenizer.ggml.add_bos_token"] = (BOOL, True)

    write_all(case, change=with_template)
    out = case.built(config=yaml(case))
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(out.files())
    made, original = json.loads(out.read("tokenizer.json")), json.loads((case.path("base/tokenizer.json")).read_text())
    assert made["model"]["vocab"] == {**original["model"]["vocab"], "<s>": 256, "</s>": 257}  # and no [PAD258]
    assert [(t["id"], t["content"], t["special"]) for t in made["added_tokens"]] == [(256, "<s>", True), (257, "</s>", True)]
    assert made["post_processor"]["processors"][1]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    config = json.loads(out.read("tokenizer_config.json"))
    assert config["bos_token"] == "<s>" and config["eos_token"] == "</s>" and config["chat_template"] == "{{ messages }}"
    assert config["add_bos_token"] is True and config["model_max_length"] == 64
    assert "tokenizer.json" not in case.built("--no-copy-tokenizer", out="without", config=yaml(case)).files()


def test_sentencepiece(case):
    """Merges follow from the scores: "ab" before "bc"."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "ab"]
    kinds, scores = [2, 3, 3] + [6] * 256 + [1], [0.0] * 259 + [-1.0]

    def change(gguf):
        gguf.metadata |= {"tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.tokens": ((ARRAY, STRING), tokens),
                          "tokenizer.ggml.token_type": ((ARRAY, I32), kinds), "tokenizer.ggml.scores": ((ARRAY, F32), scores)}
        del gguf.metadata["tokenizer.ggml.bos_token_id"], gguf.metadata["tokenizer.ggml.add_bos_token"]

    write_all(case, change=change)
    out = case.built(warning='the tokenizers of the base and of "one.gguf" differ in ', config=yaml(case, "base.gguf", "one.gguf", "base.gguf"))
    made = json.loads(out.read("tokenizer.json"))
    assert made["model"]["byte_fallback"] and made["model"]["unk_token"] == "<unk>"
    assert json.loads(out.read("tokenizer_config.json"))["bos_token"] == "<s>"


def test_without_a_vocabulary(case):
    write_all(case, change=lambda gguf: gguf.metadata.pop("tokenizer.ggml.model"))
    assert "tokenizer.json" not in case.built(config=yaml(case)).files()
    case.refused(1, "base.gguf: there is no vocabulary in this file", config=yaml(case, gate_mode="cheap_embed"), out="out2")


@rows({
    "unknown pre-tokenizer": ({"tokenizer.ggml.pre": (STRING, "brand-new")}, 2,
                              'its pre-tokenizer "brand-new" (tokenizer.ggml.pre) is not known'),
    "pre-tokenizer that hides letters": ({"tokenizer.ggml.pre": (STRING, "\x1b[31mred")}, 2, '"\\x1b[31mred"'),
    "other kind": ({"tokenizer.ggml.model": (STRING, "bert")}, 2, 'of kind "bert"; "llama" and "gpt2" are read'),
    "no tokens": ({"tokenizer.ggml.tokens": (U32, 7)}, 1, 'its vocabulary "tokenizer.ggml.tokens" is missing'),
    "a token twice": ({"tokenizer.ggml.tokens": ((ARRAY, STRING), ["a", "b", "a"]),
                       "tokenizer.ggml.token_type": ((ARRAY, I32), [1, 1, 1])}, 1, 'token 2 ("a") is there twice'),
    "no UTF-8": ({"tokenizer.ggml.tokens": ((ARRAY, STRING), [b"\xff", "b"]),
                  "tokenizer.ggml.token_type": ((ARRAY, I32), [1, 1])}, 1, "is not UTF-8"),
    "merge of nothing": ({"tokenizer.ggml.merges": ((ARRAY, STRING), ["a zz"])}, 1, "zz"),
})
def test_vocabulary_that_cannot_be_read(case, metadata, code, *sentences):
    write_all(case, change=lambda gguf: gguf.metadata.update(metadata))
    result = case.refused(code, "base.gguf: ", *sentences, config=yaml(case, gate_mode="cheap_embed"))
    assert "\x1b" not in result.stderr


def test_expert_with_a_vocabulary_that_cannot_be_read(case):
    write_all(case)
    gguf = tiny_gguf(tiny_model("one"))
    gguf.metadata["tokenizer.ggml.pre"] = (STRING, "brand-new")
    gguf.write(case.path("one.gguf"))
    case.built(warning='the tokenizer of "one.gguf" cannot be compared with the base\'s', config=yaml(case))


# -------------------------------------------------------------------------------------------------------- where they lie


def test_folder_that_holds_one_file(case):
    write_all(case)
    for name in MODELS:
        case.path(f"{name}-gguf").mkdir()
        os.rename(case.path(f"{name}.gguf"), case.path(f"{name}-gguf/{name}.Q8_0.gguf"))
    yaml(case, *(f"{name}-gguf" for name in MODELS), file="moe.yaml")
    same_tensors(case.built(), case.built(out="folders", config=yaml(case, *MODELS)))


def test_link_to_a_file(case):
    """As in the Hugging Face cache: the file behind the link has another name."""
    write_all(case)
    os.rename(case.path("base.gguf"), case.path("0123abcd"))
    os.symlink("0123abcd", case.path("base.gguf"))
    case.built(config=yaml(case))


@rows({"by the first part": ("parts/base-00001-of-00003.gguf",), "by the folder": ("parts",)})
def test_split_file(case, reference):
    write_all(case)
    for name, part in tiny_gguf(tiny_model("base")).parts("base", 3).items():
        part.write(case.path(f"parts/{name}"))
    files = case.built(config=yaml(case, reference, "one.gguf", "two.gguf"))
    same_tensors(files, case.built(out="folders", config=yaml(case, *MODELS)))


@rows({
    "part missing": (lambda case: os.remove(case.path("parts/base-00002-of-00003.gguf")), "parts/base-00001-of-00003.gguf", 1,
                     "part 2 of 3, base-00002-of-00003.gguf, is missing (an unfinished download?)"),
    "first part missing": (lambda case: os.remove(case.path("parts/base-00001-of-00003.gguf")), "parts", 1,
                           "base-00001-of-00003.gguf is missing"),
    "another part named": (lambda case: None, "parts/base-00002-of-00003.gguf", 1,
                           "part 2 of 3: name the first one, base-00001-of-00003.gguf"),
    "parts exchanged": (lambda case: (case.path("parts/base-00002-of-00003.gguf")).write_bytes(
        case.path("parts/base-00003-of-00003.gguf").read_bytes()), "parts", 1, "says that it is part 3 of 3, not part 2 of 3"),
    "another name": (lambda case: os.rename(case.path("parts/base-00001-of-00003.gguf"), case.path("base-again.gguf")),
                     "base-again.gguf", 1, "one of 3 parts, and it is not called so"),
})
def test_split_file_that_is_not_whole(case, damage, reference, code, sentence):
    write_all(case)
    for name, part in tiny_gguf(tiny_model("base")).parts("base", 3).items():
        part.write(case.path(f"parts/{name}"))
    damage(case)
    case.refused(code, sentence, config=yaml(case, reference, "one.gguf", "two.gguf"))


@rows({
    "missing": ("nosuch.gguf", 'model "nosuch.gguf": no such file (looked in . and the working folder); '
                               "a GGUF file is named by its path, not by a repository"),
    "missing, absolute": ("/no/such.gguf", 'model "/no/such.gguf": there is no such file'),
    "as of a repository": ("org/name.gguf", "no such file"),
    "another file": ("moe.bin", "moe.bin is a file, not a model's folder or a .gguf file"),
})
def test_file_that_is_nowhere(case, reference, sentence):
    case.write("moe.bin", b"x")
    write_all(case)
    case.refused(2, sentence, config=yaml(case, reference, "one.gguf", "two.gguf"))


def test_output_that_would_swallow_a_file(case):
    write_all(case)
    case.model("models")
    tiny_gguf(tiny_model("base")).write(case.path("models/base.gguf"))
    case.refused(2, "lie in one another", flags=["--overwrite"], out="models",
                 config=yaml(case, "models/base.gguf", "one.gguf", "two.gguf"))


def test_plan_names_the_files(case):
    write_all(case, "q8_0", intermediate_size=64)
    case.yaml(file="moe.yaml", text=case.path(yaml(case)).read_text())
    plan = case.plan()
    assert plan["base_model"] == {"source_model": "base.gguf", "folder": str(case.path("base.gguf"))}
    source = next(t["from"] for t in plan["tensors"] if t["name"] == "model.layers.1.self_attn.q_proj.weight")
    assert source == f"{case.path('base.gguf')}: model.layers.1.self_attn.q_proj.weight (Q8_0)"
    assert plan["bytes"]["copied"] == 0 and plan["bytes"]["total"] == plan["bytes"]["converted"] + plan["bytes"]["computed"]


# --------------------------------------------------------------------------------------------------------- what they say


def llama3_divisors(factor, length, count=4, theta=10000.0):
    out = []
    for i in range(count):
        turns = length * theta ** (-i / count) / (2 * math.pi)
        smooth = (turns - 1) / 3
        out.append(1.0 if turns > 4 else factor if turns < 1 else 1 / ((1 - smooth) / factor + smooth))
    return out


def set_rope(metadata, divisors=None):
    def change(gguf):
        gguf.metadata |= metadata
        if divisors:
            gguf.tensors["rope_freqs.weight"] = [TENSOR_F32, [len(divisors)], pack("F32", divisors)]
    return change


@rows({
    "linear": ({"llama.rope.scaling.type": (STRING, "linear"), "llama.rope.scaling.factor": (F32, 4.0)}, None,
               {"factor": 4.0, "rope_type": "linear", "type": "linear"}),
    "yarn": ({"llama.rope.scaling.type": (STRING, "yarn"), "llama.rope.scaling.factor": (F32, 2.0),
              "llama.rope.scaling.original_context_length": (U32, 32)}, None,
             {"factor": 2.0, "original_max_position_embeddings": 32, "rope_type": "yarn"}),
    "llama3": ({}, llama3_divisors(8.0, 64),
               {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
                "rope_type": "llama3"}),
})
def test_rope_scaling(case, metadata, divisors, scaling):
    write_all(case, change=set_rope(metadata, divisors))
    out = case.built(config=yaml(case, "base.gguf", "base.gguf", "one.gguf", gate_mode="hidden"),
                     warning="rotary embedding differs")
    assert out.config["rope_scaling"] == scaling, out.config["rope_scaling"]


def add_tensor(name, shape=(4, 32), dtype=TENSOR_F32, data=None):
    def change(gguf):
        gguf.tensors[name] = [dtype, list(shape), bytes(math.prod(shape) * 4) if data is None else data]
    return change


def metadata(**changes):
    def change(gguf):
        for key, value in changes.items():
            key = key.replace("__", ".")
            if value is None:
                del gguf.metadata[key]
            else:
                gguf.metadata[key] = value
    return change


def reshape(name, shape):
    def change(gguf):
        gguf.tensors[name] = [TENSOR_F32, shape, bytes(math.prod(shape) * 4)]
    return change


@rows({
    "a mixture without experts": (metadata(llama__expert_count=(U32, 8), llama__expert_used_count=(U32, 2)), 2,
                                  'tensor "blk.0.ffn_gate.weight" is not part of a mixtral model with this metadata'),
    "other family": (metadata(general__architecture=(STRING, "gemma3")), 2,
                     'model_type "gemma3" is not supported (supported: llama, mistral, qwen2, qwen3, '),
    "family with an escape": (metadata(general__architecture=(STRING, "\x1b]0;x\x07")), 2, 'model_type "\\x1b]0;x\\x07"'),
    "adapter": (metadata(general__type=(STRING, "adapter")), 2, 'a GGUF file of type "adapter", and a model is expected'),
    "no family": (metadata(general__architecture=None), 1, 'its metadata lacks "general.architecture"'),
    "no layers": (metadata(llama__block_count=None), 1, 'its metadata lacks "llama.block_count"'),
    "zero": (metadata(llama__embedding_length=(U32, 0)), 1, '"llama.embedding_length" is 0, expected 1 to'),
    "huge": (metadata(llama__attention__head_count=(U64, 2**63 - 1)), 1, "expected 1 to"),
    "heads by layer": (metadata(llama__attention__head_count_kv=((ARRAY, U32), [2, 1])), 2,
                       "a list, one for each layer, is not supported"),
    "more layers than weights": (metadata(llama__block_count=(U32, 3)), 2,
                                 'tensor "model.layers.2.self_attn.q_proj.weight" [32, 32] is missing'),
    "fewer layers than weights": (metadata(llama__block_count=(U32, 1)), 2,
                                  'tensor "blk.1.attn_norm.weight" is not part of a llama model with this metadata'),
    "other sizes": (metadata(llama__feed_forward_length=(U32, 64)), 2,
                    'mlp.gate_proj.weight" is [48, 32], its metadata says [64, 32]'),
    "heads that do not divide": (reshape("blk.0.attn_q.weight", [30, 32]), 1,
                                 '"blk.0.attn_q.weight" [30, 32] does not consist of 4 heads'),
    "weight missing": (lambda gguf: gguf.tensors.pop("blk.1.ffn_up.weight"), 1,
                       'tensor "model.layers.1.mlp.up_proj.weight" [48, 32] is missing'),
    "no embeddings": (lambda gguf: gguf.tensors.pop("token_embd.weight"), 1, 'no matrix "token_embd.weight" in it'),
    "unknown weight": (add_tensor("blk.0.attn_qkv.weight"), 2, '"blk.0.attn_qkv.weight" is not part of a llama model'),
    "weight of an unknown type": (add_tensor("blk.0.attn_q.bias", (32,), 4, bytes(128)), 2,
                                  "has tensor type 4, which this program does not know"),
    "integers": (add_tensor("output_norm.weight", (32,), 26, bytes(128)), 1,
                 "is int32; f32, f16 and bf16 weights are supported"),
    "quantised vector": (add_tensor("output_norm.weight", (32,), TENSOR_Q8_0, bytes(34)), 1,
                         "is Q8_0; f32, f16 and bf16 weights are supported"),
    "rope of its own": (set_rope({}, [1.0, 2.0, 3.0, 9.0]), 2, '"rope_freqs.weight" holds rope frequencies that no rope_scaling'),
    "rope of another size": (set_rope({}, [1.0, 8.0]), 1, '"rope_freqs.weight" is float32 [2], float32 [4] is expected'),
    "longrope": (set_rope({"llama.rope.scaling.type": (STRING, "longrope")}), 2, "is \"longrope\", which is not supported"),
})
def test_base_that_cannot_be_used(case, change, code, sentence):
    write_all(case, "f32", change=change)
    result = case.refused(code, "base.gguf: ", sentence, config=yaml(case))
    assert "\x1b" not in result.stderr


@rows({"hidden_size": ({"hidden_size": 64},), "intermediate_size": ({"intermediate_size": 64},)})
def test_expert_that_does_not_fit(case, config):
    write_all(case)
    tiny_gguf(tiny_model("one", **config)).write(case.path("one.gguf"))
    case.refused(2, f"{next(iter(config))} differs: expert \"one.gguf\" has 64", config=yaml(case))


# ------------------------------------------------------------------------------------------------------- damaged containers


def file_of(**how):
    return Gguf({"general.architecture": (STRING, "llama")}, {"t": [TENSOR_F32, [1], bytes(4)]}, **how).bytes()


@rows({
    "empty": (b"", 1, "truncated or damaged"),
    "another format": (b"PK\x03\x04 and more", 1, 'no GGUF file: it does not begin with "GGUF"'),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", 1, 'a Git LFS pointer, not the file itself'),
    "version 1": (file_of(start=b"GGUF\x01\0\0\0"), 2, "GGUF version 1, which nobody reads any more"),
    "version 9": (file_of(start=b"GGUF\x09\0\0\0"), 2, "GGUF version 9, versions 2 and 3 are read"),
    "big-endian": (file_of(start=b"GGUF\0\0\0\x03"), 2, "a big-endian GGUF file"),
    "too many tensors": (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 2**64 - 1, 0), 1, "18446744073709551615 tensors"),
    "too many keys": (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 2**63), 1, "9223372036854775808 metadata keys"),
    "long text": (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**60) + bytes(64), 1,
                  "1152921504606846976 characters of a key"),
    "alignment": (Gguf({"general.alignment": (U32, 3)}, {}).bytes(), 1, '"general.alignment" is 3, a power of two'),
})
def test_damaged_container(case, content, code, sentence):
    write_all(case)
    case.write("base.gguf", content)
    case.refused(code, "base.gguf: ", sentence, config=yaml(case))


def test_truncated_anywhere(case):
    write_all(case)
    content = case.path("base.gguf").read_bytes()
    data = content.find(b"output.weight")  # the last of the tensors' names: soon after, their data begin
    for cut in [*range(0, 200, 7), *range(200, data, data // 60), data + 20, data + 40, len(content) // 2, len(content) - 100]:
        case.write("base.gguf", content[:cut])
        case.refused(1, "base.gguf: ", config=yaml(case))
