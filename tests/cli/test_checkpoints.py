"""Weights: which files a folder holds, what is in them, and files that were made to do harm."""
import json, os

from harness import rows
from tiny_models import random_tensor, safetensors, safetensors_files, tensor, tiny_model, zeros

# ----------------------------------------------------------------------------------------------------------------- files


def base_with_files(case, files):
    """The base without weights of its own, and with these files instead."""
    base = tiny_model("base")
    base.files |= {"model.safetensors": None} | files
    case.model("base", base)


@rows({
    "several GGUF files": (["base.Q4_K_M.gguf", "base.Q8_0.gguf"], 2,
                           "2 GGUF files in this folder and no other weights: name the one you mean "
                           "(base.Q4_K_M.gguf, base.Q8_0.gguf)"),
    "nothing": ([], 1, "no weights in this folder: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
                       "pytorch_model.bin.index.json"),
    "another name": (["weights.safetensors", "training_args.bin", "pytorch_model-00001-of-00002.bin"], 1,
                     "no weights in this folder: none of model.safetensors"),
})
def test_folder_without_weights(case, names, code, *sentences):
    base_with_files(case, {name: b"x" for name in names})
    case.refused(code, f"{case.path('base')}: ", *sentences)


def test_safetensors_beside_other_weights_are_read(case):
    base = tiny_model("base")
    base.files |= {"pytorch_model.bin": b"x", "base.gguf": b"x"}
    case.model("base", base)
    case.built()


# ----------------------------------------------------------------------------------------------------------------- index


def base_with_index(case, change):
    """A base of two shards, after change(weight_map of the index)."""
    case.model("base", shards=2)
    file = case.path("base/model.safetensors.index.json")
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def move(name, shard):
    return lambda weights: weights.update({name: shard})


def test_shards_give_the_same_result_as_one_file(case):
    one_file = case.built(out="one-file").content()
    case.model("base", shards=3)
    assert case.path("base/model.safetensors.index.json").exists()
    assert case.built(out="shards").content().keys() == one_file.keys()
    assert case.path("shards/model.safetensors").read_bytes() == one_file["model.safetensors"]


def test_index_comes_before_a_single_file(case):
    case.model("base")
    case.model("base", shards=2)
    case.path("base/model.safetensors").write_bytes(b"not read")
    case.built()


def test_missing_shard(case):
    case.model("base", shards=2)
    os.remove(case.path("base/model-00002-of-00002.safetensors"))
    case.refused(1, f"{case.path('base')}: shard model-00002-of-00002.safetensors is missing (an unfinished download?)")


@rows({repr(shard): (shard,) for shard in ("../one/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "")})
def test_index_that_reaches_elsewhere(case, shard):
    base_with_index(case, move("model.norm.weight", shard))
    case.refused(1, f'base/model.safetensors.index.json: "{shard}" is no file name for a shard')


def test_index_with_a_byte_zero(case):
    base_with_index(case, move("model.norm.weight", "model-00001-of-00002.safetensors\0"))
    case.refused(1, "base/model.safetensors.index.json: ")


@rows({
    "a number": ({"weight_map": {"model.norm.weight": 5}}, '"model.norm.weight" should name a file'),
    "a list": ({"weight_map": []}, 'no "weight_map" in it'),
    "missing": ({"metadata": {}}, 'no "weight_map" in it'),
    "the document": ([], 'no "weight_map" in it'),
})
def test_index_without_a_proper_weight_map(case, index, sentence):
    case.model("base", shards=2)
    case.path("base/model.safetensors.index.json").write_text(json.dumps(index))
    case.refused(1, f"base/model.safetensors.index.json: {sentence}")


def test_index_that_is_no_json(case):
    case.model("base", shards=2)
    case.path("base/model.safetensors.index.json").write_text("{")
    case.refused(1, "base/model.safetensors.index.json: not valid JSON")


def test_index_names_a_tensor_that_its_shard_lacks(case):
    base_with_index(case, move("model.extra.weight", "model-00001-of-00002.safetensors"))
    case.refused(1, 'index.json: model-00001-of-00002.safetensors should hold "model.extra.weight" and does not')


def test_tensor_that_only_the_shard_names(case):
    """The shards' own headers decide what there is."""
    base_with_index(case, lambda weights: weights.pop("model.norm.weight"))
    assert "model.norm.weight" in case.built().tensors


def test_index_that_names_nothing(case):
    case.model("base", shards=2)
    case.path("base/model.safetensors.index.json").write_text('{"weight_map": {}}')
    case.refused(1, 'tensor "model.embed_tokens.weight" [260, 32] is missing')


def test_index_names_the_wrong_shard(case):
    base_with_index(case, move("model.embed_tokens.weight", "model-00002-of-00002.safetensors"))
    case.refused(1, 'model-00002-of-00002.safetensors should hold "model.embed_tokens.weight" and does not')


def test_tensor_in_two_shards(case):
    case.model("base", shards=2)
    shard = case.path("base/model-00002-of-00002.safetensors")
    base = tiny_model("base")
    names = list(base.tensors)[1::2] + ["model.embed_tokens.weight"]
    shard.write_bytes(safetensors_files({name: base.tensors[name] for name in names})["model.safetensors"])
    case.refused(1, f"{case.path('base')}: \"model.embed_tokens.weight\" is in two shards")


# ------------------------------------------------------------------------------------------------------ hostile headers


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


MILLION = 1_000_000
HEADERS = {  # header, data, sentence
    # its length
    "a million levels of objects": (b'{"a":' * MILLION, 0, "damaged header"),
    "a million levels of lists": (b'{"a":{"shape":' + b"[" * MILLION, 0, "damaged header"),
    "a million levels of metadata": (b'{"__metadata__":' + b'{"a":' * MILLION, 0,
                                     'damaged header at "__metadata__": unexpected object'),
    "no header": (b"", 0, 'damaged: the header does not start with "{"'),
    "a list": (b"[]", 0, 'damaged: the header does not start with "{"'),
    "a space in front": (b" {}", 0, 'damaged: the header does not start with "{"'),
    "cut off": (b'{"a":', 0, "the header is not valid JSON at byte 6"),
    "more after it": (b"{}x", 0, "the header is not valid JSON at byte 3"),
    "bad UTF-8": (b'{"\xff": {}}', 0, "the header is not valid JSON at byte 3"),
    # what it is made of
    "entry a number": (b'{"a":1}', 0, "damaged header: a number where none belongs"),
    "entry a text": (b'{"a":"b"}', 0, "damaged header: a text where none belongs"),
    "entry null": (b'{"a":null}', 0, "damaged header: null where none belongs"),
    "entry true": (b'{"a":true}', 0, "damaged header: true or false where none belongs"),
    "entry a list": (b'{"a":[]}', 0, "damaged header: unexpected list"),
    "entry empty": ({"a": {}}, 0, 'damaged header at "a": dtype, shape or data_offsets is missing'),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8, 'damaged header at "a": dtype, shape or data_offsets is missing'),
    "unknown member": ({"a": entry() | {"x": 1}}, 8, 'damaged header at "a": unknown member "x"'),
    "unknown dtype": ({"a": entry("F33")}, 8, 'damaged header at "a": unknown dtype "F33"'),
    "dtype a number": ({"a": entry(32)}, 8, 'damaged header at "a": a number where none belongs'),
    "dtype twice": (b'{"a":{"dtype":"F32","dtype":"F32"}}', 0, 'damaged header at "a": "dtype" is given twice'),
    "shape a text": (b'{"a":{"shape":"2"}}', 0, 'damaged header at "a": a text where none belongs'),
    "shape an object": (b'{"a":{"shape":{"2":2}}}', 0, 'damaged header at "a": unexpected object'),
    "shape in a shape": (b'{"a":{"shape":[[2]]}}', 0, 'damaged header at "a": unexpected list'),
    "shape twice": (b'{"a":{"shape":[2],"shape":[2]}}', 0, 'damaged header at "a": "shape" is given twice'),
    "offsets twice": (b'{"a":{"data_offsets":[0,8],"data_offsets":[0,8]}}', 0,
                      'damaged header at "a": "data_offsets" is given twice'),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, 8, 'damaged header at "a": "data_offsets" should be two numbers'),
    "one offset": ({"a": entry(offsets=(0,))}, 8, 'damaged header at "a": dtype, shape or data_offsets is missing'),
    "17 dimensions": ({"a": entry(shape=[1] * 17)}, 8, 'damaged header at "a": more than 16 dimensions'),
    "negative dimension": ({"a": entry(shape=[-2])}, 8, 'damaged header at "a": a negative number'),
    "fractional dimension": ({"a": entry(shape=[2.5])}, 8, 'damaged header at "a": a fraction'),
    "dimension beyond 63 bits": ({"a": entry(shape=[2**63])}, 8,
                                 'damaged header at "a": a number where none belongs, or too large'),
    "metadata no object": (b'{"__metadata__":[]}', 0, "damaged header: unexpected list"),
    "metadata no text": (b'{"__metadata__":{"format":1}}', 0, 'damaged header at "__metadata__": a number where none belongs'),
    "name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                   b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', 16, 'two tensors named "a"'),
    # sizes and places
    "size is not the shape's": ({"a": entry(shape=[3])}, 8,
                                '"a": F32 of shape [3] does not take the 8 bytes that its offsets say'),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, 8,
                          '"a": F32 of shape [2] does not take the -8 bytes that its offsets say'),
    "shape whose product overflows": ({"a": entry(shape=[2**32, 2**32])}, 8,
                                      '"a": F32 of shape [4294967296, 4294967296] does not take the 8 bytes'),
    "shape whose bytes overflow": ({"a": entry(shape=[2**62], offsets=(0, 2**63 - 1))}, 8,
                                   f'"a": F32 of shape [{2**62}] does not take'),
    "ends beyond the file": ({"a": entry(shape=[2**40], offsets=(0, 2**42))}, 8, 'truncated: "a" ends at byte 4398046511'),
    "ends just beyond the file": ({"a": entry()}, 7, 'truncated: "a" ends at byte '),
    "starts beyond the file": ({"a": entry(offsets=(2**62, 2**62 + 8))}, 8,
                               f'damaged: "a" starts at byte {2**62} of the data, 0 expected'),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12,
                'damaged: "b" starts at byte 4 of the data, 8 expected (a hole or an overlap)'),
    "two in one place": ({"a": entry(), "b": entry()}, 8,
                         'damaged: "b" starts at byte 0 of the data, 8 expected (a hole or an overlap)'),
    "hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, 20,
             'damaged: "b" starts at byte 12 of the data, 8 expected (a hole or an overlap)'),
    "hole in front": ({"a": entry(offsets=(8, 16))}, 16, 'damaged: "a" starts at byte 8 of the data, 0 expected'),
    "more data than tensors": ({"a": entry()}, 11, "damaged: 3 bytes after the last tensor"),
}


@rows(HEADERS)
def test_hostile_header(case, header, data, sentence):
    base_with_files(case, {"model.safetensors": safetensors(header, bytes(data))})
    case.refused(1, f"{case.path('base')}/model.safetensors: {sentence}")


@rows({
    "beyond 63 bits": (2**64 - 1, f"no safetensors file, or damaged: its header claims {2**64 - 1} bytes"),
    "beyond the format's limit": (100_000_001, "no safetensors file, or damaged: its header claims 100000001 bytes"),
    "beyond the file": (100_000_000, "truncated: the header claims 100000000 bytes, the file has 10"),
    "one byte beyond the file": (3, "truncated: the header claims 3 bytes, the file has 10"),
})
def test_header_of_a_length_that_cannot_be(case, length, sentence):
    base_with_files(case, {"model.safetensors": safetensors(b"{}", length=length)})
    case.refused(1, f"{case.path('base')}/model.safetensors: {sentence}")


@rows({"empty": (0,), "shorter than a length": (7,)})
def test_file_that_is_too_short(case, size):
    base_with_files(case, {"model.safetensors": bytes(size)})
    case.refused(1, f"base/model.safetensors: {size} bytes are no safetensors file")


@rows({"one byte": (1,), "half": (40_000,), "all data": (None,)})
def test_truncated_file(case, missing):
    """A download that stopped: in the data of some tensor, or right after the header."""
    content = safetensors_files(tiny_model("base").tensors)["model.safetensors"]
    end = len(content) - missing if missing else 8 + int.from_bytes(content[:8], "little")
    base_with_files(case, {"model.safetensors": content[:end]})
    case.refused(1, 'base/model.safetensors: truncated: "', f"the file has {end}")


def test_expert_s_file_is_checked_like_the_base_s(case):
    one = tiny_model("one")
    one.files["model.safetensors"] = b"x" * 100
    case.model("one", one)
    case.refused(1, "one/model.safetensors: no safetensors file, or damaged")


def test_headers_of_several_models_are_reported_together(case):
    for name in ("base", "two"):
        model = tiny_model(name)
        model.files["model.safetensors"] = b""
        case.model(name, model)
    case.refused(1, "base/model.safetensors: 0 bytes", "two/model.safetensors: 0 bytes")


# ---------------------------------------------------------------------------------------------------------- the tensors


def broken(case, change, name="base", **config):
    model = tiny_model(name, **config)
    change(model.tensors)
    case.model(name, model)
    return case.path(name)


NORM, LAYER = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"


def test_missing_tensor(case):
    folder = broken(case, lambda tensors: tensors.pop(LAYER))
    assert case.refused(1, f'{folder}: tensor "{LAYER}" [48, 32] is missing').stderr.count("\n") == 1


def test_missing_tensor_of_an_expert(case):
    folder = broken(case, lambda tensors: tensors.pop(LAYER), "two")
    case.refused(1, f'{folder}: tensor "{LAYER}" [48, 32] is missing')


def test_missing_lm_head(case):
    broken(case, lambda tensors: tensors.pop("lm_head.weight"))
    case.refused(1, 'tensor "lm_head.weight" [260, 32] is missing')


@rows({
    "other size": (NORM, [31], 'tensor "model.norm.weight" is [31], config.json says [32]'),
    "turned": (LAYER, [32, 48], f'tensor "{LAYER}" is [32, 48], config.json says [48, 32]'),
    "other rank": (NORM, [32, 1], 'tensor "model.norm.weight" is [32, 1], config.json says [32]'),
    "no dimension": (NORM, [], 'tensor "model.norm.weight" is [], config.json says [32]'),
    "nothing in it": (NORM, [0], 'tensor "model.norm.weight" is [0], config.json says [32]'),
})
def test_wrong_shape(case, name, shape, sentence):
    broken(case, lambda tensors: tensors.update({name: zeros("BF16", shape)}))
    case.refused(1, sentence)


@rows({"I8": ("I8", "int8"), "U8": ("U8", "uint8"), "I64": ("I64", "int64"), "F8_E4M3": ("F8_E4M3", "float8_e4m3fn"),
       "BOOL": ("BOOL", "bool")})
def test_dtype_that_is_no_plain_float(case, stored, name):
    broken(case, lambda tensors: tensors.update({LAYER: zeros(stored, [48, 32])}))
    case.refused(1, f'tensor "{LAYER}" is {name}; f32, f16 and bf16 weights are supported')


def test_many_problems_are_cut_short(case):
    def change(tensors):
        for name in [name for name in tensors if ".mlp." in name or "norm" in name]:
            del tensors[name]
    folder = broken(case, change)
    result = case.refused(1, "is missing", f"{folder}: and 6 more like these")
    assert result.stderr.count("is missing") == 5


def add_biases(tensors):
    for layer in (0, 1):
        for part, size in (("q", 32), ("k", 16), ("v", 16), ("o", 32)):
            tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = zeros("BF16", [size])


def test_attention_bias_would_be_lost(case):
    """A Llama with biases is a proper model, but Mixtral has no place for them."""
    for name in ("base", "one", "two"):
        broken(case, add_biases, name, attention_bias=True)
    case.yaml(top="architecture: mixtral\n")
    case.refused(2, 'Mixtral: "base" has "model.layers.0.self_attn.q_proj.bias", '
                    "and Mixtral has no place for it (it would be lost)")


def test_missing_attention_bias(case):
    broken(case, lambda tensors: None, attention_bias=True)
    case.refused(1, 'tensor "model.layers.0.self_attn.q_proj.bias" [32] is missing')


def test_attention_bias_of_a_mistral_is_unknown(case):
    broken(case, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": zeros("BF16", [32])}),
           model_type="mistral")
    case.refused(1, '"model.layers.0.self_attn.q_proj.bias" is not part of a mistral model with this config.json')


def test_mlp_bias(case):
    case.models("base", "one", "two", mlp_bias=True)
    case.refused(2, 'Mixtral: "base" has biases in its FFN (mlp_bias), and Mixtral has none')


@rows({
    "another part": ("model.layers.0.self_attn.q_norm.weight", [8]),
    "a layer too many": ("model.layers.2.mlp.up_proj.weight", [48, 32]),
    "a layer with a zero in front": ("model.layers.00.mlp.up_proj.weight", [48, 32]),
})
def test_unknown_tensor_inside_the_decoder(case, name, shape):
    folder = broken(case, lambda tensors: tensors.update({name: zeros("BF16", shape)}))
    case.refused(1, f'{folder}: tensor "{name}" is not part of a llama model with this config.json\n')


def test_unknown_tensor_inside_an_expert(case):
    broken(case, lambda tensors: tensors.update({"model.extra": zeros("BF16", [1])}), "one")
    case.refused(1, 'one: tensor "model.extra" is not part of a llama model')


@rows({"of the base": ("base",), "of an expert": ("two",)})
def test_head_for_another_purpose_is_left_out_with_a_warning(case, name):
    folder = broken(case, lambda tensors: tensors.update({"score.weight": zeros("BF16", [1, 32])}), name)
    out = case.built(warning=f'{folder}: tensor "score.weight" is not part of a llama model with this config.json; '
                             "it is left out")
    assert "score.weight" not in out.tensors


def test_many_warnings_are_cut_short(case):
    folder = broken(case, lambda tensors: tensors.update({f"head.{i}": zeros("BF16", [1]) for i in range(9)}))
    result = case.moe().exits(0).says(f"warning: {folder}: and 4 more like these")
    assert len(result.warnings()) == 6


def test_old_rotary_frequencies_are_left_out_silently(case):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    broken(case, lambda tensors: tensors.update({name: tensor("F32", [4], [1, 2, 3, 4])}))
    assert not [name for name in case.built().tensors if "rotary" in name]


def test_tensors_in_any_order_of_the_file(case):
    plain = case.built(out="plain").tensors
    base = tiny_model("base")
    base.tensors = dict(sorted(base.tensors.items(), reverse=True))
    case.model("base", base)
    assert case.built().tensors == plain


def test_tensors_that_start_at_odd_bytes(case):
    """The format allows it; one head of a single byte moves everything behind it."""
    one = tiny_model("one")
    one.tensors = {"head": zeros("U8", [1]), **one.tensors}
    case.model("one", one)
    out = case.built(warning='tensor "head" is not part')
    copied = out.tensors["model.layers.0.block_sparse_moe.experts.0.w1.weight"]
    assert copied == one.tensors["model.layers.0.mlp.gate_proj.weight"]


def test_tied_embeddings_need_no_lm_head(case):
    case.models("base", "one", "two", tie_word_embeddings=True)
    out = case.built()
    assert "lm_head.weight" not in out.tensors and out.config["tie_word_embeddings"] is True


def test_weights_of_several_types_in_one_model(case):
    base = tiny_model("base")
    base.tensors[NORM] = tensor("F32", [32], [1.0] * 32)
    base.tensors[LAYER] = random_tensor("x", [48, 32], "F16")
    case.model("base", base)
    assert {t.dtype for t in case.built().tensors.values()} == {"BF16"}
