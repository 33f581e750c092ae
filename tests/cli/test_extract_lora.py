"""moerge extract-lora: what is written, how close it comes, that BASE+ADAPTER is the fine-tune again, and every refusal."""
import json, math

from harness import Output, rows
from test_adapters import Adapter, PREFIX
from tiny_gguf import tiny_gguf
from tiny_mixtures import tiny_mixture
from tiny_models import random_tensor, read_safetensors, tensor, tiny_model

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
UP = "model.layers.0.mlp.up_proj"


class Lora:
    """A finished adapter."""

    def __init__(self, folder, result):
        self.folder, self.result = folder, result
        self.config = json.loads((folder / "adapter_config.json").read_text())
        self.tensors = {name.removeprefix(PREFIX): t for name, t in read_safetensors(folder / "adapter_model.safetensors").items()}
        assert len(self.tensors) == len(read_safetensors(folder / "adapter_model.safetensors"))

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def rank(self, module):
        return self.tensors[module + ".lora_A.weight"].shape[0]

    def product(self, module):
        """B A, row-major."""
        if f"{module}.lora_embedding_A" in self.tensors:
            a, b = self.tensors[f"{module}.lora_embedding_A"], self.tensors[f"{module}.lora_embedding_B"]
            return transposed(multiply(b, a), b.shape[0])
        return multiply(self.tensors[module + ".lora_B.weight"], self.tensors[module + ".lora_A.weight"])


def multiply(b, a):
    rank, columns = a.shape
    av, bv = a.values(), b.values()
    return [sum(bv[i * rank + k] * av[k * columns + j] for k in range(rank)) for i in range(b.shape[0]) for j in range(columns)]


def transposed(values, rows_):
    columns = len(values) // rows_
    return [values[i * columns + j] for j in range(columns) for i in range(rows_)]


def norm(values):
    return math.sqrt(sum(x * x for x in values))


def extract(case, *flags, model="tuned", base="base", out="lora"):
    result = case.run("extract-lora", model, out, "--base", base, *flags).exits(0)
    if result.warnings():
        result.fail("a warning that was not expected")
    if case.partial(out).exists():
        result.fail("the partial folder is still there")
    return Lora(case.path(out), result)


def refused(case, code, *sentences, words=(), model="tuned", base="base", out="lora"):
    before = case.snapshot()
    result = case.run("extract-lora", model, out, "--base", base, *words).exits(code).says("moerge: ", *sentences)
    if result.stdout:
        result.fail("a refusal belongs on stderr")
    assert case.snapshot() == before, "the refused run left something behind"


def applied(case, reference, out="applied"):
    """The tensors of BASE+ADAPTER, as moerge reads it: an expert of a mixture on itself."""
    case.yaml(text=f"base_model: {reference}\ngate_mode: random\nexperts:\n  - source_model: {reference}\n  - source_model: {reference}\n",
              file="applied.yaml")
    result = case.run("moe", "applied.yaml", out, "--i-understand-this-is-not-useful-without-training").exits(0)
    matrices = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    tensors = {}
    for name, t in Output(case.path(out), result).tensors.items():
        if ".experts.0." in name:
            start, matrix = name.removesuffix(".weight").split(".block_sparse_moe.experts.0.")
            tensors[f"{start}.mlp.{matrices[matrix]}.weight"] = t
        elif "block_sparse_moe" not in name and "experts" not in name:
            tensors[name] = t
    return tensors


def float32(name, **config):
    return tiny_model(name, "F32", torch_dtype="float32", **config)


def low_rank_pair(case, **how):
    """`base` in float32 and `tuned`, which is it with an adapter of rank 4 merged into every matrix of the layers."""
    case.model("base", float32("base"))
    tuned = float32("base")
    Adapter("tuned", tuned, **how).merge(tuned)
    return case.model("tuned", tuned)


def close_to(found, expected, error):
    """Largest difference of any value; the same tensors."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, t in expected.items():
        assert found[name].shape == t.shape, name
        worst = max(abs(x - y) for x, y in zip(found[name].values(), t.values(), strict=True))
        assert worst <= error, f"{name}: {worst}"


# ------------------------------------------------------------------------------------------------------------- what comes back


@rows({"rank 4": ("4",), "more than there is": ("64",)})
def test_merged_lora_comes_back_whole(case, rank):
    tuned = low_rank_pair(case)
    lora = extract(case, "--rank", rank)
    assert lora.files() == FILES
    assert lora.config["r"] == lora.config["lora_alpha"] == 4 and lora.config["rank_pattern"] == lora.config["alpha_pattern"] == {}
    assert sorted(lora.config["target_modules"]) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert lora.config["modules_to_save"] is None and lora.config["bias"] == "none" and lora.config["peft_type"] == "LORA"
    assert lora.config["base_model_name_or_path"] == "base" and lora.config["task_type"] == "CAUSAL_LM"
    assert len(lora.tensors) == 2 * 14 and {t.dtype for t in lora.tensors.values()} == {"F32"}
    lora.result.says("LoRA adapter of rank 4", "left out  7 equal in both (tensors)")
    close_to(applied(case, "base+lora"), tuned.tensors, 2e-6)


def test_full_rank_gives_the_fine_tune(case):
    """Two models that have nothing in common but their shapes: after one rounding to bfloat16 the same bits but for a few halves."""
    case.model("base")
    tuned = case.model("tuned")
    lora = extract(case, "--rank", "32", "--dtype", "float32")
    assert lora.rank(UP) == 32 and lora.rank("model.layers.1.self_attn.k_proj") == 16
    assert lora.config["rank_pattern"] == {f"model.layers.{i}.self_attn.{x}_proj": 16 for i in (0, 1) for x in "kv"}
    assert sorted(lora.config["modules_to_save"]) == ["embed_tokens", "lm_head"]
    found = applied(case, "base+lora")
    different = total = 0
    for name, t in tuned.tensors.items():
        pairs = list(zip(found[name].values(), t.values(), strict=True))
        total += len(pairs)
        different += sum(x != y for x, y in pairs)
        assert all(abs(x - y) <= 2 ** -7 * abs(y) for x, y in pairs), name
        if "layers" not in name:
            assert found[name] == t, name
    assert different <= total / 1000, f"{different} of {total}"


@rows({"a third of the rank": (("--rank", "10"), "F32", 1e-5), "rounded": (("--rank", "10", "--dtype", "bfloat16"), "BF16", 2e-3),
       "half": (("--rank", "7", "--dtype", "float16"), "F16", 1e-4),
       "all on A": (("--rank", "7", "--no-distribute-scale"), "F32", 1e-5)})
def test_error_is_that_of_the_file(case, flags, dtype, rounding):
    """Computed again from the files, for every module: ||D - BA|| / ||D|| exactly, and the energy that is lost is its square up
    to the rounding of the factors."""
    base, tuned = case.model("base", float32("base")), case.model("tuned", float32("tuned"))
    lora = extract(case, *flags, "--json", "-e", "embed_tokens", "-e", "lm_head")
    report = json.loads(lora.result.stdout)
    assert {t.dtype for t in lora.tensors.values()} == {dtype} and len(report["modules"]) == 14
    lost = whole = 0
    for row in report["modules"]:
        name = row["module"] + ".weight"
        difference = [x - y for x, y in zip(tuned.tensors[name].values(), base.tensors[name].values())]
        rest = norm([d - p for d, p in zip(difference, lora.product(row["module"]))])
        assert abs(row["difference"] - norm(difference)) < 1e-5 * norm(difference)
        assert abs(row["error"] - rest / norm(difference)) < 1e-5, row
        assert abs(1 - row["kept_energy"] - row["error"] ** 2) < rounding, row
        assert 0.1 < row["error"] < 0.9, row
        lost, whole = lost + rest ** 2, whole + norm(difference) ** 2
    assert abs(report["error"] - math.sqrt(lost / whole)) < 1e-5
    worst = max(report["modules"], key=lambda row: row["error"])
    lora.result.says(f"worst {worst['module']}: {100 * worst['error']:.2f} %")
    a, b = (norm(lora.tensors[f"{UP}.lora_{x}.weight"].values()) for x in "AB")
    assert abs(b - (math.sqrt(7) if "--no-distribute-scale" in flags else a)) < 0.01, (a, b)


def test_more_rank_is_closer(case):
    case.models("base", "tuned")
    errors = [json.loads(extract(case, "--rank", str(rank), "--json", out=f"lora{rank}").result.stdout)["error"] for rank in (2, 8, 24)]
    assert errors[0] > errors[1] > errors[2] > 0, errors


@rows({"bfloat16": ("BF16", "bfloat16", "BF16"), "float16": ("F16", "float16", "F16"), "float32": ("F32", "float32", "F32")})
def test_type_is_that_of_the_models(case, stored, name, expected):
    for model in ("base", "tuned"):
        case.model(model, tiny_model(model, stored, torch_dtype=name))
    assert {t.dtype for t in extract(case, "--rank", "2").tensors.values()} == {expected}


def test_base_in_float32_and_model_in_bfloat16(case):
    case.model("base", float32("base"))
    case.model("tuned")
    lora = extract(case, "--rank", "2")
    assert lora.tensors[UP + ".lora_A.weight"].dtype == "F32" and lora.tensors["lm_head.weight"].dtype == "BF16"


# -------------------------------------------------------------------------------------------------- what is no matrix of a layer


def test_embeddings_as_lora(case):
    """Of rank 6, so that it can be said exactly what comes back."""
    base, tuned = case.model("base", float32("base")), float32("base")
    modules = ["lm_head"]
    Adapter("head", tuned, modules=modules, rank=6).merge(tuned)
    other = Adapter("embedding", tuned, modules=["model.embed_tokens"], rank=6)
    other.merge(tuned)
    case.model("tuned", tuned)
    lora = extract(case, "--embed-lora", "--rank", "8")
    assert lora.tensors["model.embed_tokens.lora_embedding_A"].shape == [6, 260]
    assert lora.tensors["model.embed_tokens.lora_embedding_B"].shape == [32, 6]
    assert lora.tensors["lm_head.lora_A.weight"].shape == [6, 32] and lora.tensors["lm_head.lora_B.weight"].shape == [260, 6]
    assert lora.config["target_modules"] == ["embed_tokens", "lm_head"] and "ensure_weight_tying" not in lora.config
    close_to(applied(case, "base+lora"), tuned.tensors, 4e-6)


@rows({"whole": ((), 2), "as LoRA": (("--embed-lora",), 2)})
def test_tied_embeddings(case, flags, tensors):
    case.model("base", float32("base", tie_word_embeddings=True))
    tuned = float32("base", tie_word_embeddings=True)
    Adapter("t", tuned, modules=["model.embed_tokens", UP], rank=3).merge(tuned)
    case.model("tuned", tuned)
    lora = extract(case, *flags, "--rank", "4")
    assert lora.config["ensure_weight_tying"] is True and len(lora.tensors) == 2 + tensors
    found = applied(case, "base+lora")
    assert found.pop("lm_head.weight", None) in (None, found["model.embed_tokens.weight"])
    close_to(found, tuned.tensors, 4e-6)


def test_head_that_the_base_has_not(case):
    """The fine-tune was untied: its output is stored whole, whatever the flags say."""
    case.model("base", float32("base", tie_word_embeddings=True))
    tuned = float32("base")
    Adapter("t", tuned, modules=[UP], rank=3).merge(tuned)
    case.model("tuned", tuned)
    lora = extract(case, "--embed-lora")
    assert lora.tensors["lm_head.weight"] == tuned.tensors["lm_head.weight"] and lora.config["modules_to_save"] == ["lm_head"]
    close_to(applied(case, "base+lora"), tuned.tensors, 4e-6)


def test_head_that_stays_behind(case):
    """Only the input changes; the output is what both were."""
    case.model("base", float32("base", tie_word_embeddings=True))
    tuned = float32("base")
    tuned.tensors["lm_head.weight"] = tuned.tensors["model.embed_tokens.weight"]
    Adapter("t", tuned, modules=["model.embed_tokens", UP], rank=3).merge(tuned)
    case.model("tuned", tuned)
    for flags in (), ("--embed-lora",):
        lora = extract(case, *flags, "--overwrite")
        assert lora.tensors["lm_head.weight"] == tuned.tensors["lm_head.weight"]
        close_to(applied(case, "base+lora", out=f"applied{len(flags)}"), tuned.tensors, 4e-6)


def changed_norms_and_biases(case):
    case.model("base", float32("base", model_type="qwen2", architectures=["Qwen2ForCausalLM"]))
    tuned = float32("base", model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    Adapter("t", tuned, modules=["model.layers.0.self_attn.q_proj"], rank=3).merge(tuned)
    for name in ("model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.k_proj.bias"):
        tuned.tensors[name] = random_tensor(name, tuned.tensors[name].shape, "F32")
    return case.model("tuned", tuned)


def test_norms_and_biases_are_stored_whole(case):
    tuned = changed_norms_and_biases(case)
    lora = extract(case)
    assert sorted(lora.tensors) == ["model.layers.0.self_attn.q_proj.base_layer.bias", "model.layers.0.self_attn.q_proj.lora_A.weight",
                                    "model.layers.0.self_attn.q_proj.lora_B.weight", "model.layers.1.input_layernorm.weight",
                                    "model.layers.1.self_attn.k_proj.bias"]
    assert lora.config["bias"] == "all" and lora.config["modules_to_save"] == ["model.layers.1.input_layernorm"]
    assert lora.config["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    lora.result.says("whole     3 tensors", "input_layernorm", "q_proj.bias")
    again = json.loads(extract(case, "--json", model="base+lora", out="again").result.stdout)
    assert len(again["whole"]) == 3 and len(again["modules"]) == 1
    refused(case, 2, "have no difference in the modules that are selected", words=("-i", "layernorm|k_proj"), model="base+lora", base="tuned", out="x")


def test_norms_and_biases_are_left_out(case):
    changed_norms_and_biases(case)
    lora = extract(case, "--skip-undecomposable")
    assert len(lora.tensors) == 2 and lora.config["modules_to_save"] is None and lora.config["bias"] == "none"
    lora.result.says("3 that differ and cannot be decomposed (--skip-undecomposable)")


def test_experts_of_a_mixture(case):
    base, tuned = tiny_mixture("base"), tiny_mixture("base")
    name = next(name for name in tuned.tensors if ".experts.1." in name)
    tuned.tensors[name] = random_tensor("other", tuned.tensors[name].shape)
    case.model("base", base)
    case.model("tuned", tuned)
    lora = extract(case, "--rank", "8")
    assert list(lora.tensors) == [name.replace(".weight", f".lora_{x}.weight") for x in "AB"]
    lora.result.says("transformers 5 keeps them stacked")


# ------------------------------------------------------------------------------------------------------------------- selection


@rows({
    "include": (("-i", "mlp"), {"gate_proj", "up_proj", "down_proj"}, None),
    "two of them": (("--include-regex", "q_proj$", "--include-regex", "v_proj"), {"q_proj", "v_proj"}, None),
    "exclude": (("-e", "embed|lm_head|self_attn", "-e", "down"), {"gate_proj", "up_proj"}, None),
    "a layer": (("-i", r"layers\.0\.mlp\.up"), {"model.layers.0.mlp.up_proj"}, None),
    "save": (("-i", "up_proj", "--save-module", "k_proj"), {"up_proj"}, {"k_proj"}),
    "save one": (("-i", "mlp", "--save-module", UP), {"gate_proj", "down_proj", "model.layers.1.mlp.up_proj"}, {UP}),
    "save the head": (("-i", "mlp", "--save-module", "lm_head", "--embed-lora"), {"gate_proj", "up_proj", "down_proj"}, {"lm_head"}),
})
def test_selection(case, flags, targets, saved):
    case.models("base", "tuned")
    lora = extract(case, "--rank", "3", *flags)
    assert set(lora.config["target_modules"]) == targets
    assert lora.config["modules_to_save"] == (sorted(saved) if saved else None)
    report = json.loads(extract(case, "--rank", "3", *flags, "--json", out="again").result.stdout)
    assert len(lora.tensors) == 2 * len(report["modules"]) + len(report["whole"])
    assert report["left_out"]["not_selected"] > 0


def test_small_singular_values_are_dropped(case):
    """The smallest of the ranks decides nothing for the others; where nothing is left, the module is not in the file."""
    low_rank_pair(case)
    values = {}
    for row in json.loads(extract(case, "--json", out="all").result.stdout)["modules"]:
        values[row["module"]] = row["difference"]
    limit = sorted(values.values())[7] / 2  # about the middle of all singular values
    lora = extract(case, "--sv-epsilon", str(limit))
    ranks = {module: lora.rank(module) for module in values if module + ".lora_A.weight" in lora.tensors}
    most = max(ranks.values())
    assert lora.config["r"] == lora.config["lora_alpha"] == most and len(set(ranks.values())) > 1, ranks
    assert lora.config["rank_pattern"] == lora.config["alpha_pattern"] == {m: r for m, r in ranks.items() if r < most}
    for module in ranks:  # the roots of the singular values are the lengths of A's rows
        a = lora.tensors[module + ".lora_A.weight"]
        for k in range(a.shape[0]):
            assert norm(a.values()[k * a.shape[1]:(k + 1) * a.shape[1]]) ** 2 > limit * 0.999
    applied(case, "base+lora")  # every rank is what the configuration says


# ----------------------------------------------------------------------------------------------------------- the command itself


def test_threads_and_seeds(case):
    """Large enough for random projections: the same bytes for any number of threads."""
    config = dict(hidden_size=320, intermediate_size=400, num_hidden_layers=1)
    case.models("base", "tuned", **config)
    flags = ("--rank", "4", "-i", "up_proj|down_proj")
    one, three = (extract(case, *flags, "-j", n, out=f"lora{n}") for n in "13")
    assert one.tensors == three.tensors
    other = extract(case, *flags, "--random-seed", "1", "--json", out="other")
    assert other.tensors != one.tensors
    first = json.loads(extract(case, *flags, "--json", out="first").result.stdout)
    assert abs(first["error"] - json.loads(other.result.stdout)["error"]) < 0.002


def test_dry_run(case):
    low_rank_pair(case)
    before = case.snapshot()
    case.run("extract-lora", "tuned", "lora", "--base", "base", "--dry-run", "-v").exits(0).prints(
        "LoRA adapter of rank up to 32, float32", "at most ", f"{UP}.weight  [48, 32]  rank up to 32", "nothing was written (--dry-run)")
    plan = json.loads(case.run("extract-lora", "tuned", "lora", "--base", "base", "--dry-run", "--json", "--rank", "5").exits(0).stdout)
    assert case.snapshot() == before
    assert {row["rank"] for row in plan["modules"]} == {5} and "error" not in plan and plan["left_out"]["equal"] == 7
    assert plan["bytes"] == sum(4 * 5 * sum(row["shape"]) for row in plan["modules"])


def test_overwrite(case):
    case.models("base", "tuned")
    extract(case, "--rank", "2")
    refused(case, 2, "lora exists and is not empty", "--overwrite", words=("--rank", "3"))
    assert extract(case, "--rank", "3", "--overwrite").config["r"] == 3
    case.path("notes").mkdir()
    case.write("notes/diary.txt", "x")
    refused(case, 2, "holds no model", words=("--overwrite",), out="notes")
    lora = extract(case, "--no-write-model-card", out="bare")
    assert lora.files() == FILES[1:]


def test_spellings_of_mergekit(case):
    case.models("base", "tuned")
    case.run("extract-lora", "--model", "tuned", "--base-model", "base", "--out-path", "lora", "--max-rank", "6", "--distribute-scale",
             "--no-embed-lora", "-e", "lm_head", "--sv-epsilon", "0", "--skip-undecomposable").exits(0)
    assert Lora(case.path("lora"), None).config["r"] == 6


def test_gguf_as_the_model(case):
    base, tuned = case.model("base"), tiny_model("tuned")
    tiny_gguf(tuned).write(case.path("tuned.gguf"))
    case.model("tuned", tuned)
    folder, gguf = extract(case, "--rank", "3"), extract(case, "--rank", "3", model="tuned.gguf", out="lora2")
    assert folder.tensors == gguf.tensors


def test_adapter_as_the_model(case):
    """BASE+ADAPTER minus BASE is the adapter again."""
    low_rank_pair(case)
    extract(case, "--rank", "4")
    again = extract(case, "--rank", "8", model="base+lora", out="again")
    assert again.config["r"] == 4 and len(again.tensors) == 28
    refused(case, 2, "leads into the output lora, which would replace it", model="base+lora", words=("--overwrite",))


def test_card(case):
    for name in ("base", "tuned"):
        snapshot = case.folder / f".cache/huggingface/hub/models--org--{name}/snapshots/abc"
        tiny_model(name).write(snapshot)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs/main").write_text("abc")
    lora = extract(case, "--rank", "5", "--json", model="org/tuned", base="org/base", out="my-lora")
    assert lora.config["base_model_name_or_path"] == "org/base"
    card = (lora.folder / "README.md").read_text()
    assert card.startswith('---\nbase_model:\n- "org/base"\nbase_model_relation: adapter\nlibrary_name: peft\ntags:\n- lora\n- moerge\n')
    report = sorted(json.loads(lora.result.stdout)["modules"], key=lambda row: -row["error"])
    lines = [line for line in card.splitlines() if line.startswith("| `model.")]
    assert [line.split("`")[1] for line in lines] == [row["module"] for row in report]
    assert f"| {100 * report[0]['error']:.2f} % | {100 * report[0]['kept_energy']:.2f} % |" in lines[0]
    assert 'PeftModel.from_pretrained(base, "my-lora")' in card and "org/base+my-lora" in card
    assert "embed_tokens, lm_head" in card


def test_help_teaches(case):
    case.run("extract-lora", "--help").exits(0).prints("moerge extract-lora tuned lora --base base --rank 64 --dry-run -v", "--sv-epsilon",
                                                       "--base-model")
    case.run("--help").exits(0).prints("extract-lora")


# -------------------------------------------------------------------------------------------------------------------- refusals


@rows({
    "no base": (2, ("tuned", "lora"), "--base"),
    "rank zero": (2, ("tuned", "lora", "--base", "base", "--rank", "0"), "--rank"),
    "rank a word": (2, ("tuned", "lora", "--base", "base", "--rank", "many"), "--rank"),
    "negative epsilon": (2, ("tuned", "lora", "--base", "base", "--sv-epsilon=-1"), "--sv-epsilon"),
    "no such model": (2, ("nosuch", "lora", "--base", "base"), 'model "nosuch": no such folder'),
    "dtype": (2, ("tuned", "lora", "--base", "base", "--dtype", "int8"), "--dtype int8: float32, bfloat16 or float16 is expected"),
    "flag": (2, ("tuned", "lora", "--base", "base", "--rnk", "3"), "unknown flag --rnk (did you mean --rank?)"),
    "no expression": (2, ("tuned", "lora", "--base", "base", "-i", "(q_proj"), '--include-regex "(q_proj": no regular expression'),
    "misspelt": (2, ("tuned", "lora", "--base", "base", "-i", "up_porj"),
                 '--include-regex "up_porj": it matches none of the 21 modules; did you mean "up_proj"?'),
    "exclude misspelt": (2, ("tuned", "lora", "--base", "base", "-e", "norms"), '--exclude-regex "norms": it matches none of the'),
    "save misspelt": (2, ("tuned", "lora", "--base", "base", "--save-module", "lmhead"), '--save-module "lmhead": there is no such module',
                      'did you mean "lm_head"?'),
    "nothing selected differs": (2, ("tuned", "lora", "--base", "base", "-i", "norm"),
                                 "have no difference in the modules that are selected"),
    "nothing but whole": (2, ("tuned", "lora", "--base", "base", "-i", "lm_head"), 'of "tuned" only 1 tensor differs from "base"'),
    "the same": (2, ("base", "lora", "--base", "base"), '"base" and the base "base" have no difference: there is nothing to extract'),
    "epsilon above all": (2, ("tuned", "lora", "--base", "base", "--sv-epsilon", "1e9"), "no singular value of any module is larger"),
    "inside the model": (2, ("tuned", "tuned/lora", "--base", "base"), "lie in one another"),
    "over the base": (2, ("tuned", "base", "--base", "base", "--overwrite"), "lie in one another"),
})
def test_refusals(case, code, words, *sentences):
    case.models("base", "tuned")
    before = case.snapshot()
    case.run("extract-lora", *words).exits(code).says("moerge: ", *sentences)
    assert case.snapshot() == before


@rows({
    "family": (dict(model_type="qwen3"), 1, '"tuned" is a qwen3 model and the base "base" a llama model'),
    "layers": (dict(num_hidden_layers=3), 1, '"tuned" has 3 layers and the base "base" 2'),
    "width": (dict(intermediate_size=64), 1, 'is [64, 32] in "tuned" and [48, 32] in the base "base"', "changes numbers, not shapes"),
    "vocabulary": (dict(vocab_size=264), 1, "the vocabulary has another size", '--exclude-regex "embed_tokens|lm_head"'),
})
def test_models_that_do_not_fit(case, config, code, *sentences):
    case.model("base")
    case.model("tuned", **config)
    refused(case, code, *sentences)


def test_another_vocabulary_can_be_left_out(case):
    case.model("base")
    case.model("tuned", vocab_size=264)
    assert len(extract(case, "-e", "embed_tokens|lm_head").tensors) == 28


def test_values_that_are_none(case):
    case.model("base", float32("base"))
    tuned = float32("tuned")
    values = tuned.tensors[UP + ".weight"].values()
    tuned.tensors[UP + ".weight"] = tensor("F32", [48, 32], [math.nan] + values[1:])
    case.model("tuned", tuned)
    refused(case, 1, f'"tuned" minus "base": {UP}.weight: it holds values that are not finite')


def test_factors_that_do_not_fit_the_type(case):
    case.model("base", float32("base"))
    tuned = float32("base")
    up = tuned.tensors[UP + ".weight"]
    tuned.tensors[UP + ".weight"] = tensor("F32", up.shape, [1e12 * x for x in up.values()])
    case.model("tuned", tuned)
    refused(case, 1, "do not fit float16: choose another --dtype", words=("--dtype", "float16"))


def test_damaged_model(case):
    case.model("base")
    tuned = tiny_model("tuned")
    del tuned.tensors[UP + ".weight"]
    case.model("tuned", tuned)
    refused(case, 1, f'tuned: tensor "{UP}.weight" [48, 32] is missing')


def test_other_settings_are_warned_of(case):
    case.model("base")
    case.model("tuned", rope_theta=1e6)
    result = case.run("extract-lora", "tuned", "lora", "--base", "base").exits(0)
    assert len(result.warnings()) == 1 and 'rope_theta is 1000000 in "tuned" and 10000 in "base"' in result.warnings()[0]
