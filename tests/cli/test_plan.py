"""moerge plan: what it says is what moe and gguf then do, and nothing is written meanwhile."""
import json

from harness import rows
from test_gguf import model
from tiny_mixtures import tiny_dense, tiny_mixture
from tiny_models import tokenizer

PROMPTS = '    positive_prompts: ["in general"]\n'
TYPES = {"BF16": "bf16", "Q8_0": "q8_0", "Q4_K_M": "q4_k_m"}


def fill_in(case):
    for name in ("base", "one", "two"):
        if not case.path(name).exists():
            case.model(name, model(name))
    case.fill_in()


def run(case, *flags, config="moe.yaml"):
    """The command, which leaves everything as it was."""
    fill_in(case)
    before = case.snapshot()
    result = case.run("plan", config, *flags)
    if case.snapshot() != before:
        result.fail("a plan left something behind")
    return result


def plan(case, *flags, **how):
    result = run(case, "--json", *flags, **how).exits(0)
    if result.stderr:
        result.fail("warnings belong into the JSON")
    return json.loads(result.stdout)


def family(found, name):
    return next(row for row in found["families"] if row["architecture"] == name)


def weight_files(folder):
    return [path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors"]


def qwen2(case):
    for name in ("base", "one", "two"):
        made = tiny_dense(name, "qwen2")
        made.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model(name, made)


# ---------------------------------------------------------------------------------------------------- equal to what is made


@rows({
    "as it comes": ("random", "", []),
    "hidden states": ("hidden", "", []),
    "converted": ("random", "dtype: float16\n", []),
    "fused": ("random", "", ["--layout", "fused"]),
    "several shards": ("random", "", ["--out-shard-size", "20k"]),
})
def test_numbers_are_those_of_the_build(case, mode, top, flags):
    case.yaml(mode, top)
    found = plan(case, *flags)
    out = case.built(*flags, "--json")
    built = json.loads(out.result.stdout)
    for key in ("architecture", "dtype", "gate_mode", "base_model", "experts", "parameters", "bytes", "config", "kept_experts"):
        assert found[key] == built[key], key
    files = weight_files(out.folder)
    assert found["written"] == {"bytes": sum(files), "files": len(files)}, (found["written"], files)
    assert "tensors" not in found


@rows({
    "Mixtral": ("", []),
    "Mixtral of a fused plan": ("", ["--layout", "fused"]),
    "float16": ("dtype: float16\n", []),
    "DeepSeek MoE": ("architecture: deepseek\n", []),
})
def test_gguf_sizes_are_those_of_the_files(case, top, flags):
    case.yaml(top=top)
    files = plan(case, *flags)["gguf"]["files"]
    assert [file["type"] for file in files] == list(TYPES)
    case.run("gguf", "moe.yaml", "out", "--type", ",".join(TYPES.values())).exits(0)
    for file in files:
        assert file["bytes"] == case.path(f"out/moe.{file['type']}.gguf").stat().st_size, file


def test_memory_to_run_it(case):
    """Keys and values: 2 tensors x 2 layers x 2 heads x 8 elements x context x 2 bytes."""
    for file in plan(case)["gguf"]["files"]:
        assert [run["context"] for run in file["run"]] == [4096, 32768]
        for run in file["run"]:
            assert run["cache"] == 2 * 2 * 2 * 8 * run["context"] * 2, run
            assert run["total"] == run["weights"] + run["cache"] + run["compute"]
            assert run["beyond_model"]  # of 64 positions
            assert run["compute"] > 512 * 32 * 4 and run["weights"] < file["bytes"]
    for name in ("base", "one", "two"):
        case.model(name, model(name, max_position_embeddings=4096))
    assert [run["beyond_model"] for run in plan(case)["gguf"]["files"][0]["run"]] == [False, True]


def test_bytes_read(case):
    """What several experts share counts once; with hidden states the base's FFN is read as well."""
    fill_in(case)

    def size(name, *words):
        return sum(len(t.data) for n, t in case.model(name, model(name)).tensors.items() if not words or any(w in n for w in words))

    ffns, rest = size("one", ".mlp.") + size("two", ".mlp."), size("base") - size("base", ".mlp.")
    assert plan(case)["read"] == {"bytes": ffns + rest, "files": 3}
    case.yaml("hidden")
    assert plan(case)["read"]["bytes"] == ffns + rest + size("base", "layers.0.mlp."), "the last layer is not run"
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: one\n    noise_scale: 0.1\n")
    found = plan(case, "--i-understand-this-is-not-useful-without-training")
    assert found["read"] == {"bytes": rest + size("one", ".mlp."), "files": 2}


def test_memory_of_the_build(case):
    case.yaml("random")
    small = plan(case)["memory"]
    assert small["states"] == small["activations"] == small["weights"] == 0
    assert small["total"] == max(small["planning"], sum(small[key] for key in small if key not in ("total", "planning")))
    assert small["planning"] > 0 and small["program"] > 0
    assert small["routers"] == 2 * 32 * (2 * 4 + 8)
    case.yaml("hidden")
    hidden = plan(case)["memory"]
    assert hidden["states"] > 0 and hidden["activations"] > 0 and 0 < hidden["weights"] < 4096, hidden
    one, four = (plan(case, "-j", threads)["memory"]["buffers"] for threads in ("1", "4"))
    assert one < four, (one, four)


# ---------------------------------------------------------------------------------------------------------------- families


def test_families(case):
    found = plan(case)
    assert found["family"] == "Mixtral"
    assert [row["architecture"] for row in found["families"]] == [
        "Mixtral", "DeepSeek MoE", "Qwen MoE", "Qwen3 MoE", "Granite MoE Shared"]
    assert [row["architecture"] for row in found["families"] if row["chosen"]] == ["Mixtral"]
    assert [row["fits"] for row in found["families"]] == [True, True, False, False, True]
    assert "needs exactly one shared expert" in family(found, "Qwen MoE")["why_not"]
    assert 'takes qwen3 models, and "base" is a llama model' in family(found, "Qwen3 MoE")["why_not"]
    assert family(found, "Mixtral")["why_not"] is None
    run(case).exits(0).prints("Mixtral             chosen: the first that fits", "DeepSeek MoE        fits\n",
                              "Granite MoE Shared  fits, by request: architecture: Granite MoE Shared")


def test_family_by_name(case):
    case.yaml(top="architecture: granite\n")
    found = plan(case)
    assert family(found, "Granite MoE Shared")["chosen"] and family(found, "Mixtral")["fits"]
    run(case).exits(0).prints('Granite MoE Shared  chosen: architecture "granite"')


@rows({"any": ("", "these models cannot be combined, no output family takes them"),
       "one that does not": ("architecture: mixtral\n", 'cannot be combined as architecture "mixtral"')})
def test_no_family_fits(case, top, sentence):
    fill_in(case)
    qwen2(case)
    case.yaml(top=top)
    case.refused(2, "these models cannot be combined")
    result = run(case).exits(2).says("moerge: moe.yaml", sentence)
    result.prints("Mixtral             no: Mixtral takes llama or mistral models", "Qwen MoE            no: Qwen MoE needs exactly one")
    result = run(case, "--json").exits(2).says(sentence)
    found = json.loads(result.stdout)
    assert sentence in found["error"] and not any(row["fits"] for row in found["families"])


def test_crimes_change_what_fits(case):
    case.model("one", model("one", model_type="mistral", architectures=["MistralForCausalLM"]))
    run(case).exits(2).prints("pass --allow-crimes to combine them all the same")
    assert plan(case, "--allow-crimes")["family"] == "Mixtral"


def test_shared_experts(case):
    qwen2(case)
    case.yaml()
    with open(case.path("moe.yaml"), "a") as file:
        file.write("shared_experts:\n  - source_model: base\n" + PROMPTS)
    found = plan(case)
    assert found["family"] == "Qwen MoE" and found["shared_experts"][0]["source_model"] == "base"
    assert len(found["gguf"]["files"]) == 3
    run(case).exits(0).prints("shared    base: FFN of every layer")


def test_mixture_as_base(case):
    for made in (tiny_mixture("mix"), tiny_dense("new", "mistral")):
        made.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model("mix" if "num_local_experts" in made.config else "new", made)
    case.yaml(text="base_model: mix\ngate_mode: hidden\nexperts:\n  - {source_model: new, positive_prompts: [abc]}\n")
    found = plan(case)
    assert found["kept_experts"] == 3 and found["family"] == "Mixtral"
    assert [row["fits"] for row in found["families"]] == [True, False, False, False, False]
    assert family(found, "Qwen MoE")["why_not"] == 'the base "mix" is a mixture of the family Mixtral, which stays what it is'
    out = case.built()
    assert found["written"]["bytes"] == sum(weight_files(out.folder))
    case.run("gguf", "moe.yaml", "gguf", "--type", "q8_0").exits(0)
    assert found["gguf"]["files"][1]["bytes"] == case.path("gguf/moe.Q8_0.gguf").stat().st_size


# ----------------------------------------------------------------------------------------------------------- text and errors


def test_text(case):
    case.yaml("hidden")
    for name in ("base", "one", "two"):
        case.model(name, model(name, hidden_size=256, intermediate_size=256))
    result = run(case).exits(0).prints(
        "Mixtral: 2 layers, 2 experts, 2 per token,", "  base      base: attention, norms, embeddings", "  routers   gate_mode hidden",
        "  read      ", "  memory    ", " and page cache", "hidden states", "as GGUF         file      run at 4k*     run at 32k*\n",
        "  Q4_K_M ", "* beyond the 64 positions of the model", "families\n")
    assert not result.stderr, result.stderr
    assert "disk" not in result.stdout and len(result.stdout.splitlines()) <= 40


def test_warnings(case):
    """At the end and once; as a list in the JSON."""
    case.model("one", model("one", rope_theta=5000.0))
    sentence = 'rotary embedding differs: expert "one"'
    result = run(case).exits(0)
    assert sum(sentence in line for line in result.warnings()) == 1 and sentence not in result.stdout, result.stderr
    found = plan(case)["warnings"]
    assert [f"warning: {line}" for line in found] == result.warnings()
    assert any("Q4_K_M: " in line and "no multiple of 256" in line for line in found), found


def test_no_gguf_of_this_family(case):
    case.yaml(top="architecture: granite\n")
    found = plan(case)["gguf"]
    assert found["files"] == [] and "a Granite MoE Shared model cannot be written as GGUF" in found["refusal"]
    run(case).exits(0).prints("as GGUF   no: moe.yaml: a Granite MoE Shared model cannot be written as GGUF")


def test_vocabulary_that_gguf_cannot_have(case):
    """The sentence is that of moerge gguf."""
    case.models("base", "one", "two")
    refusal = plan(case)["gguf"]["refusal"]
    case.run("gguf", "moe.yaml", "out", "--dry-run").says(refusal) if refusal else None
    assert refusal, "this tokenizer has no merges"


def test_disk(case):
    found = plan(case, "out")["disk"]
    assert found["out"] == "out" and found["problem"] is None and 0 < found["needed"] < found["free"]
    run(case, "out").exits(0).prints("  disk      out fits: ")
    run(case, "base/inside").exits(0).prints('the output base/inside and the model "base" lie in one another')
    case.tmpfs("small", "1m")
    small = plan(case, "small/out")["disk"]
    assert "not enough space for small/out" in small["problem"] and small["free"] <= 1 << 20
    run(case, "small/out").exits(0).prints("  disk      not enough space for small/out: ")


@rows({
    "no such file": ("none.yaml", 'CONFIG "none.yaml": there is no such file', None),
    "no experts": ("moe.yaml", "experts", "base_model: base\ngate_mode: random\n"),
    "no such model": ("moe.yaml", "nowhere", "base_model: nowhere\ngate_mode: random\nexperts:\n  - source_model: one\n"),
    "no such family": ("moe.yaml", 'architecture "mixtrel" is not supported (did you mean "Mixtral"?)',
                       "base_model: base\ngate_mode: random\narchitecture: mixtrel\nexperts:\n  - source_model: one\n  - source_model: two\n"),
})
def test_errors_are_those_of_moe(case, config, sentence, text):
    if text:
        case.yaml(text=text)
    result = run(case, config=config).says("moerge: ", sentence)
    other = case.run("moe", config, "out")
    assert (result.code, result.stderr, result.stdout) == (other.code, other.stderr, ""), (result.stderr, other.stderr)
    assert result.code == 2


def test_model_that_cannot_be_run(case):
    for name in ("base", "one", "two"):
        case.model(name, model(name, hidden_act="gelu"))
    case.yaml("hidden")
    run(case).exits(2).says('activation "gelu" is not supported by the forward pass')
    case.yaml("random")
    run(case).exits(0)


def test_usage(case):
    run(case, "--overwrite").exits(2).says("unknown flag --overwrite")
    run(case, "--out-shard-size", "much").exits(2).says("a size like 5B")
    case.run("plan", "--help").exits(0).prints("Usage: moerge plan [OPTIONS] CONFIG [OUT]", "docs/plan.md", "--layout", "--allow-crimes")
    case.run("--help").exits(0).prints("plan ")
