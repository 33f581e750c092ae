"""The merges that are compared with mergekit-yaml: CASES maps a name to a Case. README.md says what is compared.

A name's first part, up to "-", is the file of merges/ that has what mergekit made. Paths are relative to the folder of the models.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    models: str           # of merge_models.SETS
    yaml: str
    flags: tuple = ()     # of mergekit-yaml and of moerge merge alike
    draws: bool = False   # random numbers: distributions are compared
    refused: bool = False  # mergekit refuses it, and so has moerge to
    tokens: bool = False  # a tokenizer is made: compared by meaning
    in_float64: bool = False  # mergekit computes in this type here, see IN_FLOAT64
    config: dict = dataclasses.field(default_factory=dict)  # keys of config.json that are others than mergekit's on purpose
    template_has: str = ""  # of a built-in chat template, instead of comparing it


def models(*rows, **parameters):
    """A list of models; `rows`: (name, its parameters)."""
    lines = ["models:"]
    for name, own in rows:
        lines.append(f"  - model: ./{name}")
        if own:
            lines += ["    parameters:"] + [f"      {key}: {value}" for key, value in own.items()]
    return lines + top(parameters)


def top(parameters):
    return ["parameters:"] + [f"  {key}: {value}" for key, value in parameters.items()] if parameters else []


def merge(method, lines, base="base", **keys):
    head = [f"merge_method: {method}"] + ([f"base_model: ./{base}"] if base else [])
    return "\n".join(head + lines + [f"{key}: {value}" for key, value in keys.items()]) + "\n"


def weighted(names="abc", weights=(0.4, 0.6, 0.3), **same):
    return [(name, {"weight": weight, **same}) for name, weight in zip(names, weights)]


def plain(names):
    return [(name, {}) for name in names]


# Names -> YAML, for every kind of model and type. Methods that draw come last.
METHODS = {
    "linear": merge("linear", models(*weighted()), base=None),
    "slerp": merge("slerp", models(("base", {}), ("a", {}), t=0.3)),
    "nuslerp": merge("nuslerp", models(*weighted("ab")), base=None),
    "nuslerp_differences": merge("nuslerp", models(*weighted("ab"), nuslerp_flatten="false")),
    "multislerp": merge("multislerp", models(*weighted()), base=None),
    "karcher": merge("karcher", models(*plain("abc")), base=None),
    "task_arithmetic": merge("task_arithmetic", models(*weighted(), **{"lambda": 0.7})),
    "ties": merge("ties", models(*weighted(density=0.5))),
    "breadcrumbs": merge("breadcrumbs", models(*weighted("ab", density=0.6, gamma=0.05))),
    "breadcrumbs_ties": merge("breadcrumbs_ties", models(*weighted(density=0.6, gamma=0.05))),
    "sce": merge("sce", models(*plain("abc"), select_topk=0.5)),
    "model_stock": merge("model_stock", models(*plain("abc"))),
    "nearswap": merge("nearswap", models(("base", {}), ("a", {}), t=0.002)),
    "arcee_fusion": merge("arcee_fusion", models(("base", {}), ("a", {}))),
    "ram": merge("ram", models(*plain("abc"), epsilon="1e-3")),
    "ramplus_tl": merge("ramplus_tl", models(*plain("abc"), epsilon="1e-3", r=0.3, alpha=0.5)),
    "passthrough": merge("passthrough", models(("a", {"scale": 0.7})), base=None),
}
DRAWING = {
    "dare_linear": merge("dare_linear", models(*weighted("ab", density=0.4))),
    "dare_ties": merge("dare_ties", models(*weighted(density=0.4))),
    "della": merge("della", models(*weighted(density=0.4, epsilon=0.2))),
    "della_linear": merge("della_linear", models(*weighted("ab", density=0.4, epsilon=0.2))),
}

JINJA = '"{% for m in messages %}{{ m.content }}{% endfor %}"'
FEATURES = {
    "parameters-gradient": Case("deep", merge("slerp", models(("base", {}), ("a", {}), t=[0, 0.9, 0.3]))),
    "parameters-gradients_by_filter": Case("deep", """\
merge_method: slerp
base_model: ./base
models: [{model: ./base}, {model: ./a}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""),
    "parameters-filters_of_models": Case("deep", """\
merge_method: ties
base_model: ./base
models:
  - model: ./a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: ./b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: ./c
    parameters:
      density: 0.33
      weight: [{filter: mlp, value: 0.5}, {filter: "*", value: 0.1}]
parameters:
  normalize: [true, true, false]
  int8_mask: true
  lambda: {filter: layers.1., value: 0.8}
"""),
    # A value of the top counts only where neither slice nor source has one; a rule that does not fit passes on.
    "parameters-precedence": Case("deep", """\
merge_method: linear
slices:
  - sources:
      - {model: ./a, layer_range: [0, 1]}
      - {model: ./b, layer_range: [0, 1], parameters: {weight: [0.2, 0.9]}}
  - sources:
      - {model: ./a, layer_range: [1, 3]}
      - {model: ./b, layer_range: [1, 3], parameters: {weight: [{filter: mlp, value: [0.1, 0.7]}]}}
    parameters: {weight: 0.4, normalize: false}
  - sources:
      - {model: ./a, layer_range: [3, 5]}
      - {model: ./b, layer_range: [3, 5]}
parameters:
  weight: [{filter: down_proj, value: 0.8}, {value: 0.5}]
"""),
    "slices-stack": Case("deep", """\
merge_method: passthrough
slices:
  - sources: [{model: ./base, layer_range: [0, 3]}]
  - sources: [{model: ./a, layer_range: [1, 5]}]
  - sources: [{model: ./b, layer_range: [3, 5]}]
dtype: bfloat16
"""),
    "slices-stack_scaled": Case("deep", """\
merge_method: passthrough
slices:
  - sources: [{model: ./base, layer_range: [0, 2]}]
  - sources:
      - model: ./base
        layer_range: [1, 2]
        parameters: {scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]}
  - sources: [{model: ./base, layer_range: [2, 5]}]
"""),
    "slices-part": Case("deep", """\
merge_method: passthrough
slices:
  - sources: [{model: ./a, layer_range: [2, 4]}]
"""),
    "slices-two_sources": Case("deep", """\
merge_method: slerp
base_model: ./base
slices:
  - sources: [{model: ./base, layer_range: [0, 3]}, {model: ./a, layer_range: [2, 5]}]
  - base_model: ./b
    sources: [{model: ./base, layer_range: [1, 3]}, {model: ./b, layer_range: [1, 3]}]
parameters:
  t: [{filter: self_attn, value: [0.2, 0.6]}, {value: 0.4}]
"""),
    "types-dtype": Case("llama_f32", merge("ties", models(*weighted(density=0.5)), dtype="bfloat16")),
    "types-out_dtype": Case("llama_bf16", merge("task_arithmetic", models(*weighted()), dtype="float32", out_dtype="bfloat16")),
    "types-out_dtype_alone": Case("llama_f32", merge("linear", models(*weighted()), base=None, out_dtype="float16")),
    "types-wider": Case("llama_bf16", merge("slerp", models(("base", {}), ("a", {}), t=0.6), dtype="float32")),
    "types-float16_linear": Case("llama_f16", merge("linear", models(*weighted()), base=None)),
    "types-float16_slerp": Case("llama_f16", merge("slerp", models(("base", {}), ("a", {}), t=0.3))),
    "types-float16_ties": Case("llama_f16", merge("ties", models(*weighted(density=0.5)))),
    "types-mixed": Case("mixed_types", merge("linear", models(*weighted("ab"), ("base", {"weight": 0.5})))),
    "types-mixed_copied": Case("mixed_types", merge("passthrough", models(("b", {})), base=None, dtype="bfloat16")),
    # mergekit leaves true there, and the lm_head that it wrote is not read.
    "models-heads_of_tied": Case("heads", merge("linear", models(("base", {"weight": 0.5}), ("a", {"weight": 0.5}))),
                                 config={"tie_word_embeddings": False}),
    "models-tied_of_heads": Case("heads", merge("slerp", models(("a", {}), ("b", {}), t=0.4), base="a")),
    "models-all_tied": Case("heads", merge("slerp", models(("base", {}), ("b", {}), t=0.4))),
    "models-base_listed": Case("llama_bf16", merge("ties", models(
        ("a", {"weight": 0.4, "density": 0.5}), ("base", {"weight": 0.9}), ("b", {"weight": 0.6, "density": 0.7})))),
    "models-base_last": Case("llama_bf16", merge("slerp", models(("a", {}), ("base", {}), t=0.3))),
    "models-base_without_weight": Case("llama_bf16", merge("linear", models(*weighted())), refused=True),
    "models-one_too_many": Case("llama_bf16", merge("slerp", models(*plain("abc"), t=0.3)), refused=True),
    "models-sharded": Case("sharded", merge("ties", models(*weighted("ab", density=0.5))), flags=("--out-shard-size", "2K")),
    "models-architectures": Case("crimes", merge("slerp", models(("base", {}), ("a", {}), t=0.3)), flags=("--allow-crimes",)),
    "models-architectures_refused": Case("crimes", merge("slerp", models(("base", {}), ("a", {}), t=0.3)), refused=True),
    "models-several_documents": Case("llama_bf16", "\n---\n".join([
        "name: first\n" + merge("linear", models(*weighted("ab")), base=None),
        merge("slerp", models(("base", {}), ("c", {}), t=0.3)).replace("./c", "first")])),
    "vocabulary-other_sizes": Case("words", merge("linear", models(*weighted("ab")), base=None), refused=True),
    "vocabulary-truncated": Case("words", merge("slerp", models(("base", {}), ("padded", {}), t=0.3)),
                                 flags=("--unsafe-truncate-embeddings",)),
    "vocabulary-union": Case("words", merge("linear", models(*weighted("ab"), ("base", {"weight": 0.5})), tokenizer_source="union"),
                             tokens=True),
    "vocabulary-base": Case("words", merge("linear", models(*weighted("ab"), ("base", {"weight": 0.5})), tokenizer_source="base"),
                            tokens=True),
    # mergekit leaves those of the base, which are other tokens.
    "vocabulary-of_a_model": Case("words", merge("ties", models(*weighted("ab", density=0.5)), tokenizer_source="./b"), tokens=True,
                                  config={"bos_token_id": 25, "eos_token_id": 24}),
    "vocabulary-padded_union": Case("words", merge("slerp", models(("base", {}), ("padded", {}), t=0.3), tokenizer_source="union"),
                                    tokens=True),
    "vocabulary-tokens": Case("words", merge("linear", models(*weighted("ab"), ("base", {"weight": 0.5}))) + """\
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    <tool>: {source: ./b}
    gh: {source: ./a, force: true}
    <new>: {source: {kind: model_token, model: ./base, token: abcd}}
    <other>: {source: {kind: model_token, model: ./a, token_id: 3}}
    <none>: {source: {kind: zero}}
""", tokens=True),
    "template-auto": Case("words", merge("linear", models(*weighted("abc")), base=None, tokenizer_source="union", chat_template="auto"),
                          tokens=True),
    "template-auto_without_tokenizer": Case("words", merge("passthrough", models(("c", {})), base="c", chat_template="auto"), tokens=True),
    "template-chatml": Case("llama_bf16", merge("slerp", models(("base", {}), ("a", {}), t=0.3), chat_template="chatml"), tokens=True,
                            template_has="<|im_start|>"),
    "template-jinja": Case("llama_bf16", merge("slerp", models(("base", {}), ("a", {}), t=0.3), chat_template=JINJA), tokens=True),
}

KINDS = ("llama_f32", "llama_bf16", "qwen2_f32", "qwen2_bf16")
# mergekit computes these in float32 from any type, and writes that unless it is told otherwise.
WIDENING = ("arcee_fusion", "ramplus_tl")
# Of angles between models that lie close together, its iteration keeps too few digits in the models' own types: its results are up to 803
# units of float32's last place and 50 of bfloat16's away from what it computes in float64, moerge's 0.5.
IN_FLOAT64 = ("karcher",)


def method_case(name, text, kind):
    bf16 = kind.endswith("bf16") and name in WIDENING
    return Case(kind, text + "out_dtype: bfloat16\n" if bf16 else text, draws=name in DRAWING,
                in_float64=name in IN_FLOAT64)


CASES = {**{f"{name}-{kind}": method_case(name, text, kind) for name, text in {**METHODS, **DRAWING}.items() for kind in KINDS},
         **FEATURES}


def file_of(name):
    return name.partition("-")[0]


def method_of(case):
    """Of the last document."""
    return [line.split()[1] for line in case.yaml.splitlines() if line.startswith("merge_method:")][-1]
