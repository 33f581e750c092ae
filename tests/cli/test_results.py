"""What a finished output holds: tensors and their values, config.json, the files beside them, the model card."""
import json, struct

from harness import rows
from tiny_models import pack, tensor, tiny_model

MOE = "model.layers.{}.block_sparse_moe"


def names(layers=2, experts=2):
    """The tensors of a Mixtral."""
    out = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in range(layers):
        out |= {f"model.layers.{layer}.{part}.weight" for part in (
            "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
            "self_attn.o_proj", "block_sparse_moe.gate")}
        out |= {f"{MOE.format(layer)}.experts.{e}.{w}.weight" for e in range(experts) for w in ("w1", "w2", "w3")}
    return out


# --------------------------------------------------------------------------------------------------------------- tensors


def test_every_tensor_comes_from_its_place(case):
    case.fill_in()
    base, one, two = (tiny_model(name).tensors for name in ("base", "one", "two"))
    tensors = case.built().tensors
    assert tensors.keys() == names()
    for name in base:
        if ".mlp." not in name:
            assert tensors[name] == base[name], name
    for layer in range(2):
        for expert, source in enumerate((one, two)):
            for new, old in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                found = tensors[f"{MOE.format(layer)}.experts.{expert}.{new}.weight"]
                assert found == source[f"model.layers.{layer}.mlp.{old}.weight"]


@rows({mode: (mode,) for mode in ("hidden", "hidden_last", "hidden_avg", "cheap_embed")})
def test_router_rows_have_unit_length(case, mode):
    case.yaml(mode, top="dtype: float32\n")
    tensors = case.built().tensors
    for layer in range(2):
        router = tensors[f"{MOE.format(layer)}.gate.weight"]
        assert router.shape == [2, 32]
        values = router.values()
        for row in (values[:32], values[32:]):
            assert abs(sum(x * x for x in row) - 1) < 1e-5


def test_cheap_embed_is_the_sum_of_the_prompts_embeddings(case):
    case.yaml(text="base_model: base\ngate_mode: cheap_embed\ndtype: float32\nexperts:\n"
                   "  - {source_model: one, positive_prompts: [ab, c]}\n  - {source_model: two, positive_prompts: [z]}\n")
    tensors = case.built().tensors
    embeddings = tensors["model.embed_tokens.weight"].values()
    tokens = [256, ord("a"), ord("b"), 256, ord("c")]
    expected = [sum(embeddings[32 * token + i] for token in tokens) for i in range(32)]
    length = sum(x * x for x in expected) ** 0.5
    for layer in range(2):
        row = tensors[f"{MOE.format(layer)}.gate.weight"].values()[:32]
        assert all(abs(a - b / length) < 1e-6 for a, b in zip(row, expected))


def test_hidden_rows_of_layer_0_are_the_last_token_s_embedding(case):
    case.yaml(text="base_model: base\ndtype: float32\nexperts:\n"
                   "  - {source_model: one, positive_prompts: [abx]}\n  - {source_model: two, positive_prompts: [y]}\n")
    tensors = case.built().tensors
    embeddings = tensors["model.embed_tokens.weight"].values()
    for expert, token in enumerate((ord("x"), ord("y"))):
        expected = embeddings[32 * token:32 * token + 32]
        length = sum(x * x for x in expected) ** 0.5
        row = tensors[f"{MOE.format(0)}.gate.weight"].values()[32 * expert:32 * expert + 32]
        assert all(abs(a - b / length) < 1e-6 for a, b in zip(row, expected))


def test_negative_prompts_are_subtracted(case):
    yaml = ("base_model: base\ngate_mode: cheap_embed\ndtype: float32\nexperts:\n"
            "  - {{source_model: one, positive_prompts: [a]{}}}\n  - {{source_model: two, positive_prompts: [b]}}\n")
    case.yaml(text=yaml.format(""))
    plain = case.built(out="plain").tensors[f"{MOE.format(0)}.gate.weight"].values()
    case.yaml(text=yaml.format(", negative_prompts: [b]"))
    found = case.built().tensors[f"{MOE.format(0)}.gate.weight"].values()
    difference = [a - b for a, b in zip(plain[:32], plain[32:])]
    length = sum(x * x for x in difference) ** 0.5
    assert all(abs(a - b / length) < 1e-5 for a, b in zip(found[:32], difference)) and found[32:] == plain[32:]


def test_uniform_random_rows_keep_within_their_bound(case):
    case.yaml("uniform_random", top="dtype: float32\n")
    values = case.built().tensors[f"{MOE.format(0)}.gate.weight"].values()
    assert max(map(abs, values)) <= 32 ** -0.5 and len(set(values)) == 64


# ------------------------------------------------------------------------------------------- seeds, threads, noise, scale


NOISE = """\
base_model: base
gate_mode: {}
experts:
  - {{source_model: one, positive_prompts: code, noise_scale: 0.1, residual_scale: 0.7}}
  - {{source_model: two, positive_prompts: maths, noise_scale: 0.1}}
"""


@rows({mode: (mode,) for mode in ("random", "uniform_random", "hidden", "cheap_embed")})
def test_any_number_of_threads_gives_the_same_bytes(case, mode):
    case.yaml(text=NOISE.format(mode))
    one = case.built("-j", "1", out="first/moe").content()
    assert case.built("--threads", "4", out="second/moe").content() == one


def test_same_seed_gives_the_same_bytes(case):
    case.yaml(text=NOISE.format("random"))
    first = case.built("--random-seed", "7", out="first/moe").content()
    assert case.built("--random-seed", "7", out="second/moe").content() == first


def test_no_seed_is_seed_zero(case):
    case.yaml(text=NOISE.format("random"))
    assert case.built(out="first/moe").content() == case.built("--random-seed", "0", out="second/moe").content()


def test_another_seed_changes_noise_and_random_routers(case):
    case.yaml(text=NOISE.format("random"))
    first = case.built(out="first").tensors
    second = case.built("--random-seed", "1", out="second").tensors
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {name for name in names() if "block_sparse_moe" in name}


def test_noise_differs_between_experts_and_layers(case):
    case.yaml(text=NOISE.format("random").replace("source_model: two", "source_model: one"))
    tensors = case.built("--i-understand-this-is-not-useful-without-training").tensors
    noisy = [tensors[name].data for name in tensors if ".w1." in name]
    assert len(set(noisy)) == 4


def test_noise_is_about_as_large_as_asked(case):
    case.yaml(text=NOISE.format("random"))
    clean = tiny_model("two").tensors["model.layers.0.mlp.up_proj.weight"].values()
    noisy = case.built().tensors[f"{MOE.format(0)}.experts.1.w3.weight"].values()
    deviation = (sum((a - b) ** 2 for a, b in zip(noisy, clean)) / len(clean)) ** 0.5
    assert 0.09 < deviation < 0.11, deviation


def test_residual_scale_touches_ffn_down_only(case):
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n"
                   "  - {source_model: one, residual_scale: 0.5}\n  - source_model: two\n")
    one, tensors = tiny_model("one").tensors, case.built().tensors
    expert = f"{MOE.format(1)}.experts.0"
    assert tensors[f"{expert}.w2.weight"].values() == [x / 2 for x in one["model.layers.1.mlp.down_proj.weight"].values()]
    assert tensors[f"{expert}.w1.weight"] == one["model.layers.1.mlp.gate_proj.weight"]
    assert tensors[f"{expert}.w3.weight"] == one["model.layers.1.mlp.up_proj.weight"]


# ----------------------------------------------------------------------------------------------------------------- dtype


SPECIAL = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 1.0039063, -60000.0, 1e-6, 6e-8, 3.1415927, 2**-14, 1e-30]


def special_models(case, dtype):
    """Models whose norms hold numbers that round in both directions."""
    norm = tensor(dtype, [32], (SPECIAL * 3)[:32])
    for name in ("base", "one", "two"):
        model = tiny_model(name, dtype)
        model.tensors["model.norm.weight"] = norm
        case.model(name, model)
    return tiny_model("base", dtype).tensors["model.embed_tokens.weight"], norm


@rows({f"{stored} to {name}": (stored, name, wanted) for stored in ("F32", "BF16", "F16")
       for name, wanted in (("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16"))})
def test_dtype_conversion_rounds_to_nearest(case, stored, name, wanted):
    def expected(tensor):
        return tensor.data if stored == wanted else pack(wanted, tensor.values())

    embeddings, norm = special_models(case, stored)
    case.yaml(top=f"dtype: {name}\n")
    out = case.built()
    assert out.config["torch_dtype"] == name
    assert {t.dtype for t in out.tensors.values()} == {wanted}
    assert out.tensors["model.norm.weight"].data == expected(norm)
    assert out.tensors["model.embed_tokens.weight"].data == expected(embeddings)


@rows({
    "that of the YAML": ("dtype: float16\n", "float32", "F16"),
    "that of config.json": ("", "float32", "F32"),
    "that of the weights": ("", None, "BF16"),
})
def test_output_dtype_is(case, top, torch_dtype, wanted):
    case.models("base", "one", "two", torch_dtype=torch_dtype)
    case.yaml(top=top)
    assert {t.dtype for t in case.built().tensors.values()} == {wanted}


def test_conversion_to_float16_may_overflow(case):
    """As PyTorch does: beyond 65504 there is infinity."""
    base = tiny_model("base")
    base.tensors["model.norm.weight"] = tensor("BF16", [32], [1e6] * 32)
    case.model("base", base)
    case.yaml(top="dtype: float16\n")
    values = case.built().tensors["model.norm.weight"].data
    assert values == struct.pack("<H", 0x7C00) * 32


# ---------------------------------------------------------------------------------------------------------------- layout


@rows({"as they are": ("",), "converted": ("dtype: float32\n",)})
def test_fused_layout_is_the_per_expert_one_stacked(case, top):
    case.yaml(text=NOISE.format("random") + top)
    single = case.built("--layout", "per-expert", out="single").tensors
    fused = case.built("--layout", "fused", out="fused").tensors
    assert fused.keys() == {name for name in names() if "block_sparse_moe" not in name} | {
        f"model.layers.{layer}.mlp.{part}" for layer in (0, 1)
        for part in ("gate.weight", "experts.gate_up_proj", "experts.down_proj")}
    for layer in (0, 1):
        old, new = MOE.format(layer), f"model.layers.{layer}.mlp"
        assert fused[f"{new}.gate.weight"] == single[f"{old}.gate.weight"]
        gate_up, down = fused[f"{new}.experts.gate_up_proj"], fused[f"{new}.experts.down_proj"]
        assert gate_up.shape == [2, 96, 32] and down.shape == [2, 32, 48]
        assert gate_up.data == b"".join(single[f"{old}.experts.{e}.{w}.weight"].data for e in (0, 1) for w in ("w1", "w3"))
        assert down.data == b"".join(single[f"{old}.experts.{e}.w2.weight"].data for e in (0, 1))


# ---------------------------------------------------------------------------------------------------------------- shards


def test_shards_hold_everything_once(case):
    whole = case.built(out="whole").tensors
    out = case.built("--out-shard-size", "20k")
    shards = [name for name in out.files() if name.endswith(".safetensors")]
    assert shards == [f"model-{i}-of-00005.safetensors" for i in ("00001", "00002", "00003", "00004", "00005")], shards
    index = json.loads(out.read("model.safetensors.index.json"))
    assert index["weight_map"].keys() == names() and index["metadata"]["total_size"] == 83008
    assert out.tensors == whole and "model.safetensors" not in out.files()


def test_shards_keep_within_their_size(case):
    out = case.built("--out-shard-size", "17000")
    for name in out.files():
        if name.endswith(".safetensors"):
            content = out.read(name)
            assert len(content) - 8 - int.from_bytes(content[:8], "little") <= 17000, name


def test_tensor_that_is_larger_than_a_shard_has_one_of_its_own(case):
    out = case.built("--out-shard-size", "1")
    assert len([name for name in out.files() if name.endswith(".safetensors")]) == len(names())
    assert out.tensors.keys() == names()


def test_one_shard_has_no_index(case):
    assert case.built().files() == ["README.md", "config.json", "generation_config.json", "mergekit_moe_config.yml",
                                    "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@rows({"one file": ([],), "shards": (["--out-shard-size", "20k"],), "fused": (["--layout", "fused"],)})
def test_files_are_plain_safetensors(case, flags):
    """Data start at a multiple of 8 bytes, and transformers finds its {"format": "pt"}."""
    out = case.built(*flags)
    for name in out.files():
        if name.endswith(".safetensors"):
            content = out.read(name)
            length = int.from_bytes(content[:8], "little")
            assert length % 8 == 0 and json.loads(content[8:8 + length])["__metadata__"] == {"format": "pt"}


@rows({"plain": ([], ""), "converted": ([], "dtype: float16\n"), "fused": (["--layout", "fused"], ""),
       "shards": (["--out-shard-size", "20k"], "")})
def test_verify_compares_everything(case, flags, top):
    case.yaml(text=NOISE.format("hidden") + top)
    case.built("--verify", *flags).result.says("weights: ", "verified: ", "tensors equals what it was made of")


# ----------------------------------------------------------------------------------------------------------- config.json


def test_config_json(case):
    for name in ("base", "one", "two"):
        model = tiny_model(name, attention_bias=False, mlp_bias=False, pretraining_tp=1, transformers_version="4.40.0",
                           _name_or_path="/home/someone", auto_map={"AutoModel": "x.Y"}, use_cache=True, sliding_window=None)
        case.model(name, model)
    assert case.built().config == {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 260, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 256,
        "eos_token_id": 257, "use_cache": True, "sliding_window": None, "num_local_experts": 2, "num_experts_per_tok": 2,
        "output_router_logits": False, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0}


@rows({
    "head_dim that is not hidden / heads": (dict(head_dim=16), "head_dim", 16),
    "head_dim that is": (dict(head_dim=8), "head_dim", 8),
    "rope_theta in rope_parameters": (dict(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
                                      "rope_theta", 5e5),
    "old spelling of rope_scaling": (dict(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling",
                                     {"factor": 2.0, "rope_type": "linear", "type": "linear"}),
    "rope_parameters": (dict(rope_theta=None, rope_parameters={"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0}),
                        "rope_scaling",
                        {"rope_type": "yarn", "factor": 4.0}),
    "unknown keys": (dict(my_own_key=[1, {"a": None}]), "my_own_key", [1, {"a": None}]),
})
def test_config_json_keeps(case, config, key, value):
    case.models("base", "one", "two", **config)
    found = case.built().config
    assert found.get(key) == value, found
    assert "rope_parameters" not in found


def test_null_head_dim_is_dropped(case):
    for name in ("base", "one", "two"):
        model = tiny_model(name)
        model.config["head_dim"] = None
        case.model(name, model)
    assert "head_dim" not in case.built().config


def test_experts_per_token(case):
    case.yaml(top="experts_per_token: 1\n")
    out = case.built()
    assert out.config["num_experts_per_tok"] == 1
    out.result.says("2 experts, 1 per token, 41.5k parameters (32.3k active)")


# ----------------------------------------------------------------------------------------------------- files beside them


BASE_FILES = {
    "chat_template.jinja": b"{% for m in messages %}\r\n{{ m }}\xc3\xa9{% endfor %}",
    "chat_template.json": b'{"chat_template": "x"}', "generation_config.json": b'{"eos_token_id":  257}',
    "special_tokens_map.json": b'{ "bos_token": "<s>" }', "added_tokens.json": b"{}", "tokenizer.model": bytes(range(256)),
    "vocab.json": b"{}", "merges.txt": b"", "tokenizer_config.json": b'{"bos_token": "<s>"} \n'}


def test_files_of_the_base_are_copied_byte_for_byte(case):
    base = tiny_model("base")
    base.files |= BASE_FILES | {"README.md": b"the base's", "training_args.bin": b"x", "original.gguf": b"x"}
    case.model("base", base)
    out = case.built()
    for name, content in (BASE_FILES | {"tokenizer.json": base.files["tokenizer.json"]}).items():
        assert out.read(name) == content, name
    assert not {"training_args.bin", "original.gguf"} & set(out.files()) and out.read("README.md") != b"the base's"


def test_additional_chat_templates_are_copied(case):
    case.model("base")
    case.write("base/additional_chat_templates/tools.jinja", "tools")
    case.write("base/additional_chat_templates/deeper/no.jinja", "x")
    out = case.built()
    assert [path.name for path in (out.folder / "additional_chat_templates").iterdir()] == ["tools.jinja"]


def test_files_of_experts_are_not_copied(case):
    one = tiny_model("one")
    one.files["chat_template.jinja"] = b"expert's"
    case.model("one", one)
    assert "chat_template.jinja" not in case.built().files()


def test_no_copy_tokenizer(case):
    assert case.built("--no-copy-tokenizer").files() == ["README.md", "config.json", "mergekit_moe_config.yml",
                                                         "model.safetensors"]


def test_no_write_model_card(case):
    assert "README.md" not in case.built("--no-write-model-card").files()


def test_the_yaml_is_kept_byte_for_byte(case):
    text = "# mine: \u00e9\r\nbase_model:   base\ngate_mode: random\nexperts: [{source_model: one}, {source_model: two}]"
    case.yaml(text=text)
    assert case.built().read("mergekit_moe_config.yml") == text.encode()


def test_new_files_are_readable_for_others(case):
    out = case.built()
    for name in out.files():
        assert (out.folder / name).stat().st_mode & 0o444 == 0o444, name


# ------------------------------------------------------------------------------------------------------------ model card


def card(out):
    return out.read("README.md").decode()


def test_model_card(case):
    case.yaml("hidden")
    text = card(case.built(out="my-moe"))
    for part in ("---\nlibrary_name: transformers\ntags:\n- moe\n", "\n# my-moe\n",
                 "A Mixtral mixture of 2 experts with 41.5k parameters, 41.5k of them active for a token (2 experts per token)",
                 "Attention, norms and embeddings come from `base`;", "\n0. `one` (2 prompts)\n1. `two` (2 prompts)\n",
                 "Routers: gate_mode `hidden`. Weights: bfloat16.", "\n```yaml\n" + case.path("moe.yaml").read_text() + "```\n",
                 'model_id = "my-moe"'):
        assert part in text, f"{part}\n--- not in\n{text}"


def test_model_card_links_models_of_the_hub(case):
    for name in ("base", "one", "two"):
        tiny_model(name).write(case.folder / f".cache/huggingface/hub/models--org--{name}/snapshots/abc")
        ref = case.folder / f".cache/huggingface/hub/models--org--{name}/refs/main"
        ref.parent.mkdir()
        ref.write_text("abc")
    case.yaml(text="base_model: org/base\ngate_mode: random\nexperts:\n"
                   "  - source_model: org/one@abc\n  - source_model: org/two\n")
    text = card(case.built())
    assert 'base_model:\n- "org/base"\n- "org/one"\n- "org/two"\nbase_model_relation: merge\nlibrary_name' in text, text
    assert "come from [`org/base`](https://huggingface.co/org/base);" in text
    assert "0. [`org/one@abc`](https://huggingface.co/org/one) (no prompts)" in text


def test_model_card_tells_negative_prompts(case):
    case.yaml(text="base_model: base\nexperts:\n  - {source_model: one, positive_prompts: x, negative_prompts: [y, z]}\n"
                   "  - {source_model: two, positive_prompts: q}\n")
    assert "0. `one` (1 prompt, 2 negative)\n1. `two` (1 prompt)\n" in card(case.built())


ODD = 'a `b` ``c`` "d" # e\n# f'


def test_model_card_of_an_odd_model_name(case):
    """Backticks, quotes, "#" and a line break in a folder's name neither end the code span nor begin a heading."""
    case.model(ODD)
    case.yaml(text=f"base_model: {json.dumps(ODD)}\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: two\n")
    text = card(case.built())
    assert 'come from ```a `b` ``c`` "d" # e # f```;' in text, text
    assert not any(line.startswith("# f") for line in text.splitlines())


def test_model_card_of_a_name_that_ends_in_a_backtick(case):
    case.model("`a`")
    case.yaml(text='base_model: "`a`"\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: two\n')
    assert "come from `` `a` ``;" in card(case.built())


def test_model_card_of_an_odd_output_name(case):
    text = card(case.built(out=ODD))
    assert '\n# a \\`b\\` \\`\\`c\\`\\` "d" \\# e \\# f\n' in text, text
    assert 'model_id = "a `b` ``c`` \\"d\\" # e\\n# f"' in text
    assert not any(line.startswith("# f") for line in text.splitlines())


def test_model_card_of_a_yaml_with_fences(case):
    yaml = "base_model: base\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: two\n# ````\n# no fence\n"
    case.yaml(text=yaml)
    assert f"\n`````yaml\n{yaml}`````\n" in card(case.built())
