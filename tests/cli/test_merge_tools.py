"""What uses merges: mixtures of them, plans, GGUF files; and the small tools beside moerge merge."""
import json
import struct

from harness import Output, rows
from test_merge import LINEAR, mean, merge
from tiny_models import Tensor, random_tensor, read_safetensors, safetensors_files, tiny_model, tokenizer

HALF = LINEAR.replace("merge_method", "name: half\nmerge_method")


def test_experts_that_are_merges(case):
    """One file: a merge, and a mixture that has it as an expert. The same as with the merge in a folder of its own."""
    case.models("base", "one", "two")
    mixture = "base_model: base\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: half\n"
    case.write("both.yaml", HALF + "---\n" + mixture)
    case.run("moe", "both.yaml", "both", "--verify").exits(0)
    merge(case, HALF, out="half")
    case.write("moe.yaml", mixture)
    case.run("moe", "moe.yaml", "apart").exits(0)
    both, apart = Output(case.path("both"), None), Output(case.path("apart"), None)
    assert both.tensors == apart.tensors and both.config == apart.config
    assert "half" in both.read("mergekit_moe_config.yml").decode()
    case.run("verify", "both").exits(0)


def test_mixture_in_the_wrong_command(case):
    case.models("base", "one", "two")
    case.write("m.yaml", HALF)
    case.run("moe", "m.yaml", "out").exits(2).says("moerge merge")


def models_for_gguf(case):
    """llama.cpp wants a vocabulary with merges."""
    for name in ("one", "two"):
        model = tiny_model(name, vocab_size=264)
        model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model(name, model)


def test_plan_of_a_merge(case):
    models_for_gguf(case)
    case.write("merge.yaml", LINEAR)
    text = case.run("plan", "merge.yaml", "out").exits(0).prints("as GGUF", "Q4_K_M", "memory", "fits").stdout
    report = json.loads(case.run("plan", "merge.yaml", "--json").exits(0).stdout)
    sizes = sum(case.path(f"{name}/model.safetensors").stat().st_size for name in ("one", "two"))
    assert 0.5 * sizes < report["read"]["bytes"] < sizes and report["read"]["files"] == 2
    assert report["gguf"]["refusal"] is None and len(report["gguf"]["files"]) == 3 and "tensors" not in report
    assert "half" not in text


def test_gguf_of_a_merge(case):
    """The same file as of the folder that it would be written to."""
    models_for_gguf(case)
    built = merge(case, LINEAR)
    case.run("gguf", "merge.yaml", "a.gguf", "--type", "f16", "--name", "x").exits(0)
    case.run("gguf", "out", "b.gguf", "--type", "f16", "--name", "x").exits(0)
    assert case.path("a.gguf").read_bytes() == case.path("b.gguf").read_bytes()
    assert built.config["model_type"] == "llama"


# ------------------------------------------------------------------------------------------------------- files of tensors


def write_tensors(case, name, tensors):
    case.write(name, safetensors_files(tensors)["model.safetensors"])
    return tensors


FILES = """\
merge_method: linear
models:
  - {model: one.safetensors, parameters: {weight: 1}}
  - {model: two.safetensors, parameters: {weight: 3}}
"""


def test_files_of_tensors(case):
    one = write_tensors(case, "one.safetensors", {"0.weight": random_tensor("a", [3, 4]), "only": random_tensor("b", [2]),
                                                  "steps": tensor_i64(5)})
    two = write_tensors(case, "two.safetensors", {"0.weight": random_tensor("c", [3, 4]), "steps": tensor_i64(5)})
    case.write("m.yaml", FILES)
    case.run("merge-pytorch", "m.yaml", "out").exits(2).says('tensor "only": "two.safetensors" has none')
    case.run("merge-pytorch", "m.yaml", "common", "--tensor-intersection").exits(0)
    case.run("merge-pytorch", "m.yaml", "all", "-u").exits(0)
    common, both = (read_safetensors(case.path(f"{name}/model.safetensors")) for name in ("common", "all"))
    assert set(common) == {"0.weight", "steps"} and set(both) == {"0.weight", "only", "steps"}
    for made in (common, both):
        assert made["0.weight"].values() == mean(one["0.weight"], two["0.weight"], (1, 3)) and made["steps"] == one["steps"]
    assert both["only"] == one["only"]
    assert sorted(path.name for path in case.path("all").iterdir()) == ["mergekit_config.yml", "model.safetensors"]
    case.run("merge-pytorch", "m.yaml", "all", "-i", "--overwrite").exits(0)
    assert read_safetensors(case.path("all/model.safetensors")) == common


def tensor_i64(value):
    return Tensor("I64", [1], struct.pack("<q", value))


@rows({"a file": (FILES.replace("two.s", "tow.s"), 'tow.safetensors": there is no such file'),
       "slices": ("merge_method: passthrough\nslices: [{sources: [{model: one.safetensors, layer_range: [0, 1]}]}]\n", "have no layers"),
       "a tokenizer": (FILES + "tokenizer_source: union\n", "have no tokenizer")})
def test_files_of_tensors_refused(case, yaml, says):
    for name in ("one", "two"):
        write_tensors(case, f"{name}.safetensors", {"w": random_tensor(name, [2])})
    case.write("m.yaml", yaml)
    case.run("merge-pytorch", "m.yaml", "out").exits(2).says(says)
    assert not case.path("out").exists()


# ---------------------------------------------------------------------------------------------------------- layershuffle


def layers_of(built, models):
    """Which layer of which model each layer is."""
    out = []
    for layer in range(built.config["num_hidden_layers"]):
        mine = built.tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
        out.append(next((name, own) for name, model in models.items() for own in range(model.config["num_hidden_layers"])
                        if model.tensors[f"model.layers.{own}.mlp.up_proj.weight"] == mine))
    return out


def test_layershuffle(case):
    models = {name: case.model(name, num_hidden_layers=12) for name in ("one", "two")}
    words = ["-m", "one", "-w", "1", "-m", "two", "-w", "1", "--random-seed", "3"]
    case.run("layershuffle", "out", *words, "--write-yaml", "drawn.yaml").exits(0)
    drawn = layers_of(Output(case.path("out"), None), models)
    assert [own for _, own in drawn] == list(range(12)) and {name for name, _ in drawn} == {"one", "two"}
    case.run("merge", "drawn.yaml", "again").exits(0)
    assert Output(case.path("again"), None).tensors == Output(case.path("out"), None).tensors
    printed = case.run("layershuffle", "no", *words, "--print-yaml", "--dry-run").exits(0).stdout
    assert printed.startswith(case.path("drawn.yaml").read_text()) and not case.path("no").exists()


def test_layershuffle_from_anywhere(case):
    models = {"one": case.model("one", num_hidden_layers=8), "two": case.model("two", num_hidden_layers=6)}
    case.run("layershuffle", "out", "-m", "one", "-w", "0.5", "-m", "two", "-w", "1", "--full-random").exits(0)
    drawn = layers_of(Output(case.path("out"), None), models)
    names = [name for name, _ in drawn]
    assert names.count("one") == 4 and names.count("two") == 6 and names != sorted(names)


@rows({"no model": ([], "which models?"), "no weight": (["-m", "one"], "1 models and 0 weights"),
       "weights of nothing": (["-m", "one", "-w", "0"], "all weights are 0"),
       "a negative one": (["-m", "one", "-w", "-1"], "a number from 0 on"),
       "other depth": (["-m", "one", "-w", "1", "-m", "deep", "-w", "1"], "only --full-random mixes them")})
def test_layershuffle_refused(case, words, says):
    case.model("one")
    case.model("deep", num_hidden_layers=3)
    case.run("layershuffle", "out", *words).exits(2).says(says)
