"""moerge merge: what is read from a YAML of mergekit-yaml, what is made of it, and what is refused. What the methods compute is
compared with mergekit in tests/golden."""
import json
import os
import struct

from harness import Output, rows
from tiny_models import Tensor, pack, random_tensor, safetensors_files, tiny_model

LINEAR = """\
merge_method: linear
models:
  - model: one
    parameters: {weight: 1}
  - model: two
    parameters: {weight: 3}
"""


def merge(case, yaml, *flags, out="out", warning=None):
    case.write("merge.yaml", yaml)
    result = case.run("merge", "merge.yaml", out, *flags).exits(0)
    warnings = result.warnings()
    if len(warnings) != (warning is not None) or (warning and warning not in warnings[0]):
        result.fail(f"expected as a warning: {warning}")
    if case.partial(out).exists():
        result.fail("the partial folder is still there")
    return Output(case.path(out), result)


def refused(case, yaml, *says, flags=(), code=2):
    case.write("merge.yaml", yaml)
    before = case.snapshot()
    result = case.run("merge", "merge.yaml", "out", *flags).exits(code).says("moerge: ", *says)
    assert case.snapshot() == before, "the refused run left something behind"
    return result


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def rounded(dtype, values):
    return Tensor(dtype, [len(values)], pack(dtype, values)).values()


def mean(a, b, weights, dtype="BF16"):
    total = sum(weights)
    return rounded(dtype, [f32(f32(weights[0] * x + f32(weights[1] * y)) / total) for x, y in zip(a.values(), b.values())])


# -------------------------------------------------------------------------------------------------------- what is merged


@rows({"one thread": ("-j1",), "two threads": ("-j2",)})
def test_mean_of_two(case, threads):
    one, two = case.models("one", "two")
    built = merge(case, LINEAR, threads, "--verify")
    assert set(built.tensors) == set(one.tensors)
    for name, made in built.tensors.items():
        assert made.dtype == "BF16" and made.shape == one.tensors[name].shape
        assert made.values() == mean(one.tensors[name], two.tensors[name], (1, 3)), name
    assert built.config == one.config
    assert built.read("tokenizer.json") == case.path("one/tokenizer.json").read_bytes()
    assert built.read("mergekit_config.yml").decode() == LINEAR
    card = built.read("README.md").decode()
    assert "linear" in card and "weight 3" in card


def test_types(case):
    """dtype: in which is computed; out_dtype: in which is written."""
    one, two = case.models("one", "two")
    wide = merge(case, LINEAR + "dtype: float32\n")
    assert wide.config["torch_dtype"] == "float32"
    half = merge(case, LINEAR + "dtype: float32\nout_dtype: float16\n", out="half")
    assert half.config["torch_dtype"] == "float16"
    for name, made in wide.tensors.items():
        assert made.dtype == "F32" and made.values() == mean(one.tensors[name], two.tensors[name], (1, 3), "F32")
        assert half.tensors[name].dtype == "F16" and half.tensors[name].values() == rounded("F16", made.values())


def test_frankenmerge_is_a_copy(case):
    """Layers of two models on top of each other: tensors are the sources' own, and layer lists follow them."""
    one = case.model("one", layer_types=["full_attention", "sliding_attention"])
    two = case.model("two", layer_types=["sliding_attention", "full_attention"])
    built = merge(case, """\
merge_method: passthrough
slices:
  - sources: [{model: one, layer_range: [0, 2]}]
  - sources: [{model: two, layer_range: [0, 2]}]
  - sources: [{model: one, layer_range: [1, 2]}]
""", "--json")
    origins = [(one, 0), (one, 1), (two, 0), (two, 1), (one, 1)]
    for layer, (model, own) in enumerate(origins):
        for name, t in model.tensors.items():
            if name.startswith(f"model.layers.{own}."):
                assert built.tensors[name.replace(f"layers.{own}.", f"layers.{layer}.")] == t
    assert built.tensors["model.embed_tokens.weight"] == one.tensors["model.embed_tokens.weight"]
    assert built.tensors["lm_head.weight"] == one.tensors["lm_head.weight"]
    assert built.config["num_hidden_layers"] == 5
    assert built.config["layer_types"] == [m.config["layer_types"][own] for m, own in origins]
    report = json.loads(built.result.stdout)
    assert report["bytes"]["copied"] == report["bytes"]["total"] and report["layers"] == 5


def test_scale_of_a_filter(case):
    """Passthrough with a factor on some tensors: only these are computed."""
    one = case.model("one")
    built = merge(case, """\
merge_method: passthrough
slices:
  - sources:
      - model: one
        layer_range: [0, 2]
        parameters:
          scale:
            - {filter: o_proj, value: 0.5}
            - {filter: down_proj, value: [0, 2]}
            - {value: 1}
""")
    for name, t in one.tensors.items():
        factor = {"o_proj": 0.5, "down_proj": 2.0 if ".1." in name else 0.0}
        factor = next((f for key, f in factor.items() if key in name), 1.0)
        assert built.tensors[name].values() == rounded("BF16", [x * factor for x in t.values()]), name


def test_precedence(case):
    """A model's own value, else its slice's, else the document's."""
    one, two = case.models("one", "two")
    built = merge(case, """\
merge_method: linear
slices:
  - sources:
      - {model: one, layer_range: [0, 1], parameters: {weight: [{filter: q_proj, value: 3}]}}
      - {model: two, layer_range: [0, 1]}
    parameters: {weight: 1}
  - sources:
      - {model: one, layer_range: [1, 2]}
      - {model: two, layer_range: [1, 2], parameters: {weight: 7}}
parameters: {weight: 5}
""")
    def expect(name, weights):
        assert built.tensors[name].values() == mean(one.tensors[name], two.tensors[name], weights), name
    expect("model.layers.0.self_attn.q_proj.weight", (3, 1))
    expect("model.layers.0.self_attn.k_proj.weight", (1, 1))
    expect("model.layers.1.self_attn.k_proj.weight", (5, 7))
    expect("model.embed_tokens.weight", (1, 1))
    expect("lm_head.weight", (5, 7))


def test_tied_and_untied(case):
    """A model without a head of its own takes part with its embeddings; the result then has one."""
    one, two = case.model("one", tie_word_embeddings=True), case.model("two")
    built = merge(case, LINEAR)
    assert built.config["tie_word_embeddings"] is False
    assert built.tensors["lm_head.weight"].values() == mean(one.tensors["model.embed_tokens.weight"],
                                                            two.tensors["lm_head.weight"], (1, 3))
    case.model("two", tie_word_embeddings=True)
    built = merge(case, LINEAR, out="tied")
    assert built.config["tie_word_embeddings"] is True and "lm_head.weight" not in built.tensors


def test_family_without_a_table(case):
    """Layers are found by their names, and that is said."""
    for name in ("one", "two"):
        model = tiny_model(name, model_type="neverheard", architectures=["NeverHeardForCausalLM"])
        model.tensors = {key.replace("model.layers.", "stack.h."): t for key, t in model.tensors.items()}
        case.model(name, model)
    case.write("merge.yaml", LINEAR)
    result = case.run("merge", "merge.yaml", "out").exits(0)
    assert len(result.warnings()) == 2 and all("neverheard" in line and "stack.h." in line for line in result.warnings())
    built = Output(case.path("out"), result)
    assert "stack.h.1.mlp.up_proj.weight" in built.tensors and built.config["model_type"] == "neverheard"


def test_documents_that_build_on_each_other(case):
    """Nothing of a stage is written, and the result is that of one merge after the other."""
    one, two, three = case.models("one", "two", "three")
    first = LINEAR.replace("merge_method", "name: half\ndtype: float32\nout_dtype: bfloat16\nmerge_method")
    last = LINEAR.replace("model: one", "model: half").replace("model: two", "model: three")
    built = merge(case, first + "---\n" + last)
    merge(case, first, out="half")
    apart = merge(case, last, out="apart")
    assert built.tensors == apart.tensors and built.config["torch_dtype"] == "bfloat16"
    assert sorted(path.name for path in case.work.iterdir()) == ["apart", "half", "merge.yaml", "one", "out", "three", "two"]


@rows({"chatml": ("chatml",), "jinja": ("\"{{ messages[0]['content'] }}\"",), "a model's": ("two",), "auto": ("auto",)})
def test_chat_template(case, value):
    own = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    case.model("one")
    two = tiny_model("two")
    two.files["tokenizer_config.json"] = json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": own}).encode()
    case.model("two", two)
    built = merge(case, LINEAR + f"chat_template: {value}\n", warning="<|im_start|>" if value == "chatml" else None)
    text = json.loads(built.read("tokenizer_config.json"))["chat_template"]
    expected = {"two": own, "auto": own}.get(value)
    assert text == expected if expected else ("im_start" in text) == (value == "chatml") and "messages" in text


def test_random_methods_have_a_seed(case):
    case.models("base", "one", "two")
    yaml = """\
merge_method: dare_ties
base_model: base
models:
  - {model: one, parameters: {weight: 0.5, density: 0.5}}
  - {model: two, parameters: {weight: 0.5, density: 0.5}}
"""
    first = merge(case, yaml, "-j1", "--random-seed", "7")
    again = merge(case, yaml, "-j2", "--random-seed", "7", out="again")
    other = merge(case, yaml, out="other")
    assert first.tensors == again.tensors and first.tensors != other.tensors


def test_called_mergekit_yaml(case):
    case.models("one", "two")
    case.write("merge.yaml", LINEAR)
    program = case.work / "mergekit-yaml"
    os.symlink(case.binary, program)
    case.run("merge.yaml", "out", "--cuda", "--lazy-unpickle", "--copy-tokenizer", program=program).exits(0).says(
        "--cuda has no effect", "--lazy-unpickle has no effect")
    assert Output(case.path("out"), None).config["model_type"] == "llama"


def test_dry_run_writes_nothing(case):
    case.models("one", "two")
    case.write("merge.yaml", LINEAR)
    before = case.snapshot()
    text = case.run("merge", "merge.yaml", "out", "--dry-run", "-v").exits(0).stdout
    assert "one: model.norm.weight + two: model.norm.weight (linear, weight 1 3)" in text and "2 layers" in text
    report = json.loads(case.run("merge", "merge.yaml", "out", "--dry-run", "--json").exits(0).stdout)
    assert report["merge_method"] == "linear" and len(report["tensors"]) == 21
    assert report["slices"][0]["sources"][1]["parameters"]["weight"] == [{"filter": "*", "points": [3]}]
    assert case.snapshot() == before


def test_list_methods(case):
    text = case.run("list", "methods").exits(0).stdout
    for name in ("slerp", "dare_ties", "breadcrumbs_ties", "ramplus_tl", "passthrough", "https://arxiv.org/abs/2306.01708"):
        assert name in text
    methods = json.loads(case.run("list", "methods", "--json").exits(0).stdout)
    assert len(methods) == 20
    ties = next(method for method in methods if method["name"] == "ties")
    assert {"density", "weight", "normalize", "lambda"} <= {parameter["name"] for parameter in ties["parameters"]}
    case.run("list", "method").exits(2)


# ------------------------------------------------------------------------------------------------------- what is refused


def test_all_problems_at_once(case):
    case.models("one", "two")
    refused(case, """\
merge_method: tiees
models:
  - model: one
    parametres: {weight: 1}
dtype: float12
""", 'merge.yaml:1:15: unknown merge_method "tiees" (did you mean "ties"?)', 'merge.yaml:4:5: unknown key "parametres"',
            "merge.yaml:5:8:", "float12")


@rows({
    "a method without its base": ("merge_method: ties\nmodels: [{model: one, parameters: {weight: 1}}]\n", 'ties needs a "base_model"'),
    "a parameter": ("merge_method: ties\nbase_model: one\nmodels: [{model: two}]\n", 'ties needs "weight" of "two"'),
    "too many models": ("merge_method: slerp\nbase_model: one\nmodels: [{model: one}, {model: two}, {model: base}]\nparameters: {t: 0.5}\n",
                        "slerp merges 2 models, the base included, found 3 models"),
    "a model": ("merge_method: linear\nmodels: [{model: one, parameters: {weight: 1}}, {model: tow, parameters: {weight: 1}}]\n", "tow"),
    "layers": ("merge_method: passthrough\nslices: [{sources: [{model: one, layer_range: [1, 4]}]}]\n",
               "layer_range [1, 4) goes beyond the 2 layers of \"one\""),
    "probabilities": ("merge_method: della\nbase_model: base\nmodels: [{model: one, parameters: {weight: 1, density: 0.9}}]\n",
                      "probabilities from 0.75 to 1.05"),
    "weights that cancel out": ("merge_method: linear\nmodels: [{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: -1}}]\n",
                                "weights sum to 0"),
    "a circle": ("name: a\nmerge_method: linear\nmodels: [{model: b, parameters: {weight: 1}}]\n---\nname: b\nmerge_method: linear\n"
                 "models: [{model: a, parameters: {weight: 1}}]\n", "these documents need each other: a, b, a"),
    "two results": (LINEAR + "---\n" + LINEAR, 'a second document without a "name"'),
    "a chat template": (LINEAR + "chat_template: chatmel\n", 'unknown chat_template "chatmel" (did you mean "chatml"?)'),
    "a mixture": ("base_model: one\nexperts: [{source_model: one}]\n", "moerge moe"),
})
def test_refused(case, yaml, says):
    case.models("base", "one", "two")
    refused(case, yaml, says)


def test_models_that_do_not_fit(case):
    case.model("one")
    case.model("two", intermediate_size=40, num_hidden_layers=3)
    refused(case, LINEAR, 'has 3 layers, "one" 2')
    case.model("two", intermediate_size=40)
    text = refused(case, LINEAR, "has different shapes", "[48, 32] in \"one\", [40, 32] in \"two\"").stderr
    assert text.count("different shapes") == 1, "the same problem of every layer is said once"
    case.model("two", model_type="qwen2")
    refused(case, LINEAR, '"one" is a llama and "two" a qwen2', "--allow-crimes")
    refused(case, LINEAR, 'q_proj.bias": "one" has none', flags=["--allow-crimes"])
    case.model("two", vocab_size=300)
    refused(case, LINEAR, "tokenizer_source: union")
    built = merge(case, LINEAR, "--unsafe-truncate-embeddings", warning="the first 260 rows")
    assert built.tensors["model.embed_tokens.weight"].shape == [260, 32] and built.config["vocab_size"] == 260


def test_damaged_model(case):
    one, two = case.models("one", "two")
    del two.tensors["model.layers.1.mlp.up_proj.weight"]
    case.model("two", two)
    refused(case, LINEAR, 'tensor "model.layers.1.mlp.up_proj.weight": "two" has none')
    two.tensors = {name: t for name, t in two.tensors.items() if ".layers.1." not in name}
    case.model("two", two)
    refused(case, LINEAR, '"num_hidden_layers" of config.json is 2, but there are tensors of 1 layers', code=1)


def test_output_in_a_source_and_overwriting(case):
    case.models("one", "two")
    case.write("merge.yaml", LINEAR)
    case.run("merge", "merge.yaml", "one/out").exits(2)
    merge(case, LINEAR)
    case.run("merge", "merge.yaml", "out").exits(2).says("exists and is not empty")
    case.run("merge", "merge.yaml", "out", "--overwrite").exits(0)


def test_adapter_takes_part(case):
    """MODEL+ADAPTER is a model like any other."""
    one = case.model("one")
    case.model("two")
    name = "model.layers.0.self_attn.q_proj"
    a, b = random_tensor("a", [2, 32], "F32"), random_tensor("b", [32, 2], "F32")
    files = safetensors_files({f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b})
    case.write("lora/adapter_model.safetensors", files["model.safetensors"])
    case.write("lora/adapter_config.json", json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    built = merge(case, LINEAR.replace("model: one", "model: one+lora").replace("weight: 3", "weight: 0"))
    changed = [n for n, t in built.tensors.items() if t != one.tensors[n]]
    assert changed == [f"{name}.weight"], changed
