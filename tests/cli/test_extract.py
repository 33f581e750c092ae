"""moerge extract: one expert of a mixture as a dense model."""
import json

from harness import Output, rows
from tiny_gguf import q8_0_values
from tiny_mixtures import FAMILIES, expert_names, mixture_gguf, stack, tiny_dense, tiny_mixture
from tiny_models import pack, random_tensor, tokenizer


def extract(case, *words, out="out", warning=None):
    result = case.run("extract", *words[:1], out, *words[1:]).exits(0)
    warnings = result.warnings()
    if len(warnings) != (warning is not None) or (warning and warning not in warnings[0]):
        result.fail(f"expected as a warning: {warning}")
    if case.partial(out).exists():
        result.fail("the partial folder is still there")
    return Output(case.path(out), result)


def refused(case, code, *words, says, out="out"):
    before = case.snapshot()
    result = case.run("extract", *words[:1], out, *words[1:]).exits(code).says("moerge: ", says)
    assert case.snapshot() == before, "the refused run left something behind"
    return result


def dense_tensors(model, expert):
    """What the expert of a tiny mixture is as a dense model."""
    family, out = model.config["model_type"], {}
    for name, t in model.tensors.items():
        if ".self_attn." in name or "layernorm" in name or ".layers." not in name:
            out[name] = t
    for layer in range(model.config["num_hidden_layers"]):
        for ours, matrix in zip(expert_names(family, layer, expert), ("gate", "up", "down")):
            out[f"model.layers.{layer}.mlp.{matrix}_proj.weight"] = model.tensors[ours]
    return out


@rows({f"{family}, {form}": (family, form) for family in FAMILIES for form in ("one by one", "stacked", "GGUF")})
def test_expert_of_every_family_and_layout(case, family, form):
    model = tiny_mixture("mix", family)
    expected = dense_tensors(model, 1)
    if form == "GGUF":
        mixture_gguf(model).write(case.path("mix.gguf"))
    else:
        case.model("mix", stack(model) if form == "stacked" else model)
    built = extract(case, "mix.gguf" if form == "GGUF" else "mix", "--expert", "1", "--verify")
    assert built.tensors == expected
    config, dense = built.config, FAMILIES[family]["dense"]
    assert config["model_type"] == dense and config["intermediate_size"] == 64
    assert config["architectures"] == [{"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                                        "llama": "LlamaForCausalLM"}[dense]]
    assert not [key for key in config if "expert" in key or "topk" in key or "router" in key or "moe" in key], config
    assert config["rope_theta"] == 10000.0 and config["torch_dtype"] == "bfloat16"
    assert config.get("head_dim") == {"qwen3": 16}.get(dense), config
    assert ("sliding_window" in config) == (dense == "mistral") and config.get("sliding_window") is None


def test_config_of_a_mixtral(case):
    """All that a Mixtral's file says and a Mistral's means otherwise or does not know."""
    model = tiny_mixture("mix", sliding_window=48, rope_theta=1e6, head_dim=16, auto_map={"AutoModel": "x.Y"},
                         rope_scaling={"type": "linear", "factor": 2.0}, attention_dropout=0.1, transformers_version="4.0")
    model.config["dtype"] = model.config.pop("torch_dtype")
    case.model("mix", model)
    config = extract(case, "mix", "--expert", "0").config
    assert config == {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 260, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": False,
        "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}, "sliding_window": 48, "attention_dropout": 0.1,
        "torch_dtype": "bfloat16", "bos_token_id": 256, "eos_token_id": 257}, config


def test_windows_of_qwen_stay(case):
    """Written layer by layer, since a dense Qwen finds them by another rule than a mixture."""
    case.model("mix", tiny_mixture("mix", "qwen2_moe", use_sliding_window=True, sliding_window=8, max_window_layers=1))
    config = extract(case, "mix", "--expert", "0").config
    assert config["use_sliding_window"] is True and config["sliding_window"] == 8
    assert sorted(config["layer_types"]) == ["full_attention", "sliding_attention"]
    case.model("none", tiny_mixture("none", "qwen2_moe", sliding_window=8))
    config = extract(case, "none", "--expert", "0", out="other").config
    assert config["use_sliding_window"] is False and "layer_types" not in config


def test_mixture_of_two_models_and_back(case):
    """Expert 0 of a mixture whose base is its first expert is that model; expert 1 has the other's FFN."""
    a, b = case.models("base", "one")
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: base\n  - source_model: one\n")
    case.built(out="mix")
    first, second = extract(case, "mix", "--expert", "0", out="first"), extract(case, "mix", "--expert", "1", out="second")
    assert first.tensors == a.tensors
    assert second.tensors == {name: (b if ".mlp." in name else a).tensors[name] for name in a.tensors}
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rope_theta", "rms_norm_eps",
            "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "torch_dtype", "tie_word_embeddings")
    assert {key: first.config[key] for key in kept} == {key: a.config[key] for key in kept}
    assert first.config["model_type"] == "mistral"  # which a Llama without a window is
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert first.read(name) == a.files[name]
    # And it can be taken where the model was: the same mixture again.
    case.yaml(text="base_model: first\ngate_mode: random\nexperts:\n  - source_model: first\n  - source_model: second\n")
    assert case.built(out="again").tensors == Output(case.path("mix"), None).tensors


def test_extracted_is_what_the_reference_means(case):
    case.model("mix", tiny_mixture("mix"))
    case.models("base", intermediate_size=64)
    extract(case, "mix", "--expert", "2", out="second")
    text = "base_model: base\ngate_mode: random\nexperts:\n  - source_model: {}\n  - source_model: base\n"
    case.yaml(text=text.format("mix#expert=2"))
    direct = case.built(out="direct").tensors
    case.yaml(text=text.format("second"))
    assert case.built("--allow-crimes", out="detour").tensors == direct  # a folder's mistral with a llama


@rows({"number in the name": ("mix#expert=1",), "both": ("mix#expert=1", "--expert", "1"), "folder's slash": ("mix/", "--expert", "1")})
def test_ways_to_say_which(case, *words):
    model = case.model("mix", tiny_mixture("mix"))
    assert extract(case, *words).tensors == dense_tensors(model, 1)


@rows({"qwen2_moe": ("qwen2_moe", "shared_expert", 96), "deepseek": ("deepseek", "shared_experts", 128)})
def test_shared_expert(case, family, name, width):
    model = case.model("mix", tiny_mixture("mix", family))
    built = extract(case, "mix", "--expert", "shared", "--verify")
    assert built.config["intermediate_size"] == width
    for matrix in ("gate", "up", "down"):
        assert built.tensors[f"model.layers.1.mlp.{matrix}_proj.weight"] == model.tensors[f"model.layers.1.mlp.{name}.{matrix}_proj.weight"]
    assert "the shared expert of the mixture" in built.read("README.md").decode()


def test_quantised_gguf_becomes_float16(case):
    model = tiny_mixture("mix")
    gguf = mixture_gguf(model, "q8_0")
    gguf.write(case.path("mix.gguf"))
    built = extract(case, "mix.gguf", "--expert", "2", "--verify")
    assert {t.dtype for t in built.tensors.values()} == {"F16"} and built.config["torch_dtype"] == "float16"
    values = q8_0_values(gguf.tensors["blk.0.ffn_up_exps.weight"][2])
    assert built.tensors["model.layers.0.mlp.up_proj.weight"].data == pack("F16", values[2 * 64 * 32:])


def test_types_of_tensors_stay(case):
    """A router or a norm in float32 beside bfloat16 matrices is no reason to round."""
    model = tiny_mixture("mix")
    model.tensors["model.norm.weight"] = random_tensor("n", [32], "F32")
    case.model("mix", model)
    built = extract(case, "mix", "--expert", "0", "--verify").tensors
    assert built == dense_tensors(model, 0) and built["model.norm.weight"].dtype == "F32"


def test_one_expert_of_one(case):
    model = tiny_mixture("mix", experts=1)
    model.config["num_experts_per_tok"] = 1
    expected = dense_tensors(model, 0)
    mixture_gguf(model).write(case.path("mix.gguf"))
    assert extract(case, "mix.gguf", "--expert", "0").tensors == expected


def test_shards_overwrite_threads(case):
    model = case.model("mix", tiny_mixture("mix"), shards=3)
    built = extract(case, "mix", "--expert", "1", "--out-shard-size", "20k", "-j", "3", "--verify", "--no-write-model-card",
                    "--no-copy-tokenizer")
    assert built.tensors == dense_tensors(model, 1)
    assert "model.safetensors.index.json" in built.files() and "README.md" not in built.files()
    assert "tokenizer.json" not in built.files()
    refused(case, 2, "mix", "--expert", "0", says="--overwrite")
    assert extract(case, "mix", "--expert", "0", "--overwrite").files() == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_plan_in_words_and_json(case):
    case.model("mix", tiny_mixture("mix"))
    before = case.snapshot()
    case.run("extract", "mix", "out", "--expert", "1", "--dry-run", "-v").exits(0).prints(
        "MistralForCausalLM: 2 layers", "from      mix#expert=1 (expert 1 of 3, ", "nothing was written (--dry-run)",
        "model.layers.1.mlp.down_proj.weight  bfloat16 [32, 64]  <- ")
    plan = json.loads(case.run("extract", "mix", "out", "--expert", "1", "--dry-run", "--json").exits(0).stdout)
    assert case.snapshot() == before
    assert plan["architecture"] == "MistralForCausalLM" and plan["expert"] == 1 and plan["experts"] == 3
    assert plan["source_model"] == "mix#expert=1" and plan["bytes"]["converted"] == plan["bytes"]["computed"] == 0
    built = extract(case, "mix", "--expert", "1")
    assert {t["name"]: t["shape"] for t in plan["tensors"]} == {name: t.shape for name, t in built.tensors.items()}
    assert plan["config"] == built.config and plan["parameters"] == sum(len(t.data) // 2 for t in built.tensors.values())


def test_card(case):
    snapshot = case.folder / ".cache/huggingface/hub/models--org--mix/snapshots/abc"
    tiny_mixture("mix").write(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("abc")
    card = extract(case, "org/mix", "--expert", "2", out="my-model").read("README.md").decode()
    assert card.startswith("---\nbase_model:\n- \"org/mix\"\nlibrary_name: transformers\ntags:\n- moerge\n- \"org/mix\"\npipeline_tag: text-generation\n---\n\n# my-model\n")
    assert "expert 2 of 3 of the mixture [`org/mix#expert=2`](https://huggingface.co/org/mix)" in card


@rows({
    "none said": (2, ("mix",), 'which expert of "mix"? --expert 0 takes the first one'),
    "beyond": (2, ("mix", "--expert", "3"), 'model "mix#expert=3": there is no expert 3: the model has 3 experts, #expert=0 to #expert=2'),
    "fraction": (2, ("mix", "--expert", "1.5"), "--expert 1.5: an expert's number (0, 1, ...) or \"shared\" is expected"),
    "negative": (2, ("mix", "--expert=-1"), "--expert -1: an expert's number"),
    "twice": (2, ("mix#expert=1", "--expert", "2"), '"mix#expert=1" names another expert than --expert 2: say it once'),
    "no shared": (2, ("mix", "--expert", "shared"), "this mixtral model has no shared expert"),
    "dense": (2, ("dense", "--expert", "0"), "is a dense llama model and has no experts to choose from"),
    "nowhere": (2, ("nosuch", "--expert", "0"), 'model "nosuch": no such folder'),
    "misspelt flag": (2, ("mix", "--exprt", "0"), "unknown flag --exprt (did you mean --expert?)"),
    "size": (2, ("mix", "--expert", "0", "--out-shard-size", "5X"), "--out-shard-size 5X: a size like 5B"),
    "damaged": (1, ("broken", "--expert", "0"), 'broken: tensor "model.layers.1.mlp.gate_proj.weight" [64, 32] is missing'),
})
def test_refusals(case, code, words, sentence):
    case.model("mix", tiny_mixture("mix"))
    case.model("dense")
    broken = tiny_mixture("broken")
    del broken.tensors[expert_names("mixtral", 1, 0)[0]]
    case.model("broken", broken)
    refused(case, code, *words, says=sentence)


def test_out_inside_the_model(case):
    case.model("mix", tiny_mixture("mix"))
    refused(case, 2, "mix", "--expert", "0", out="mix/out", says="lie in one another")


def test_help_teaches(case):
    case.run("extract", "--help").exits(0).prints("moerge extract merge code-model --expert 1 --verify", "--expert", "MODEL#expert=3")
    case.run("--help").exits(0).prints("extract")


# --------------------------------------------------------------------------------------------------------- into GGUF files


def with_vocabulary(model):
    """llama.cpp wants merges in one."""
    model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
    return model


def gguf_bytes(case, source, out, *flags):
    case.run("gguf", source, out, "--name", "same", *flags).exits(0)
    return case.path(out).read_bytes()


@rows({family: (family,) for family in FAMILIES})
def test_gguf_of_an_expert_is_that_of_the_extracted_model(case, family):
    case.model("mix", with_vocabulary(tiny_mixture("mix", family)))
    extract(case, "mix", "--expert", "1", "--no-write-model-card", out="dense")
    for kind in ("bf16", "q8_0"):
        direct = gguf_bytes(case, "mix#expert=1", f"direct.{kind}.gguf", "--type", kind)
        assert direct == gguf_bytes(case, "dense", f"detour.{kind}.gguf", "--type", kind)


def test_gguf_is_named_after_the_expert(case):
    case.model("mix", with_vocabulary(tiny_mixture("mix")))
    case.run("gguf", "mix#expert=2", "files", "--type", "q8_0").exits(0)
    assert [path.name for path in case.path("files").iterdir()] == ["mix-expert-2.Q8_0.gguf"]


@rows({family: (family,) for family in FAMILIES})
def test_gguf_of_a_gguf_mixture(case, family):
    """Read and written again: every tensor as it was; and in another type as from the folder."""
    case.model("mix", with_vocabulary(tiny_mixture("mix", family)))
    gguf_bytes(case, "mix", "once.bf16.gguf", "--type", "bf16")
    assert gguf_bytes(case, "once.bf16.gguf", "again.gguf", "--type", "bf16") == case.path("once.bf16.gguf").read_bytes()
    a, b = gguf_bytes(case, "once.bf16.gguf", "a.gguf", "--type", "q8_0"), gguf_bytes(case, "mix", "b.gguf", "--type", "q8_0")
    assert len(a) == len(b)
    size = len(b) // 2  # the header may differ in what a card says; the tensors do not
    assert a[-size:] == b[-size:]


def test_gguf_of_a_gguf_expert(case):
    """Blocks pass through: the same file as from the mixture's folder, up to metadata."""
    case.model("mix", with_vocabulary(tiny_mixture("mix")))
    gguf_bytes(case, "mix", "mix.gguf", "--type", "q8_0")
    direct = gguf_bytes(case, "mix.gguf#expert=1", "direct.gguf", "--type", "q8_0")
    folder = gguf_bytes(case, "mix#expert=1", "folder.gguf", "--type", "q8_0")
    size = len(folder) // 2
    assert direct[-size:] == folder[-size:]
