"""moe.yaml: what is refused (with line and column), what is only warned about, and the spellings that are understood."""
from harness import rows

EXPERTS = """\
experts:
  - source_model: one
    positive_prompts: [code]
  - source_model: two
    positive_prompts: [maths]
"""
DOCUMENT = "base_model: base\n" + EXPERTS

# Ten times as many nodes a line: a billion in the end.
EXPLOSION = "a0: &a0 [" + ", ".join("x" * 10) + "]\n" + "".join(
    f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]\n" for i in range(1, 9))


def refused(case, text, *sentences):
    case.yaml(text=text)
    return case.refused(2, *sentences)


def built(case, text, **how):
    case.yaml(text=text)
    return case.built(**how)


# ------------------------------------------------------------------------------------------------------ not even a tree


@rows({
    "map in a value": ("base_model: base: x\n", "moe.yaml:1:17: illegal map value"),
    "open list": ("base_model: base\nexperts: [\n", "moe.yaml:3:1: end of sequence flow not found"),
    "wrong indentation": ("experts:\n  - source_model: one\n   positive_prompts: x\n", "moe.yaml:3:4: "),
    "unknown anchor": ("base_model: *base\n", "moe.yaml:1:13: the referenced anchor is not defined"),
    "key twice": ("base_model: base\nbase_model: one\n", 'moe.yaml:2:1: "base_model" is given twice'),
    "list as a key": ("? [1, 2]\n: 3\n", "moe.yaml:1:3: a key must be a plain word"),
    "merge of no map": ("base_model: base\n<<: 3\n", 'moe.yaml:2:5: "<<" needs a map'),
    "nested too deeply": ("x: " + "[" * 200 + "]" * 200 + "\n", "nested too deeply"),
    "a million levels": ("[" * 1_000_000, "moe.yaml:"),
    "aliases that explode": (EXPLOSION, "too large once its aliases are expanded"),
    "byte zero": ("base_model: base\0\n", "moe.yaml: not a text file"),
})
def test_broken_document(case, text, sentence):
    refused(case, text, sentence)


@rows({
    "empty": ("", "found nothing"),
    "only a comment": ("# base_model: base\n", "found nothing"),
    "a word": ("base\n", "moe.yaml:1:1: the configuration should be a map of \"key: value\" lines, found a single value"),
    "a list": ("- base\n", "moe.yaml:1:1: the configuration should be a map of \"key: value\" lines, found a list"),
})
def test_document_that_is_no_map(case, text, sentence):
    refused(case, text, "the configuration should be a map", sentence)


@rows({
    "merge_method": ("models:\n  - model: one\nmerge_method: slerp\nbase_model: base\n",),
    "slices": ("slices:\n  - sources: [{model: one, layer_range: [0, 2]}]\n",),
})
def test_dense_merge_configuration(case, text):
    refused(case, text, 'moe.yaml:1:1: this is the configuration of a dense merge', 'names "base_model" and "experts"')


# --------------------------------------------------------------------------------------------------------- wrong values


@rows({
    # what is missing
    "no base_model": (EXPERTS, 'moe.yaml:1:1: no "base_model": the model that gives attention, norms and embeddings'),
    "base_model without a value": ("base_model:\n" + EXPERTS, 'no "base_model"'),
    "base_model empty": ('base_model: ""\n' + EXPERTS, 'no "base_model"'),
    "no experts": ("base_model: base\n", 'moe.yaml:1:1: no "experts": the list of models whose FFNs become the experts'),
    "experts without a value": ("base_model: base\nexperts:\n", 'no "experts"'),
    "experts an empty list": ("base_model: base\nexperts: []\n", 'no "experts"'),
    "no source_model": (DOCUMENT + "  - positive_prompts: [x]\n", 'moe.yaml:7:5: this expert has no "source_model"'),
    "source_model empty": (DOCUMENT + '  - source_model: ""\n    positive_prompts: [x]\n', 'this expert has no "source_model"'),
    # what has another type
    "base_model a list": ("base_model: [base]\n" + EXPERTS, 'moe.yaml:1:13: "base_model" should be a text, found a list'),
    "base_model another map": ("base_model: {name: base}\n" + EXPERTS,
                               'moe.yaml:1:13: "base_model" should be a text, found a map'),
    "experts a text": ("base_model: base\nexperts: one\n",
                       'moe.yaml:2:10: "experts" should be a list, each item starting with "- source_model: ...", '
                       "found a single value"),
    "experts a map": ("base_model: base\nexperts: {source_model: one}\n", 'moe.yaml:2:10: "experts" should be a list',
                      "found a map"),
    "an expert a text": (DOCUMENT + "  - base\n",
                         'moe.yaml:7:5: an expert should be a map of "key: value" lines, found a single value'),
    "an expert empty": (DOCUMENT + "  -\n", 'an expert should be a map of "key: value" lines, found nothing'),
    "prompts a map": (DOCUMENT + "  - source_model: base\n    positive_prompts: {a: b}\n",
                      'moe.yaml:8:23: "positive_prompts" should be a list of texts, found a map (quote texts that contain ": ")'),
    "a prompt a map": (DOCUMENT + "  - source_model: base\n    positive_prompts:\n      - say: hello\n",
                       'moe.yaml:9:9: "positive_prompts" should be a list of texts, found a map in it '
                       '(quote texts that contain ": ")'),
    "a prompt without a value": (DOCUMENT + "  - source_model: base\n    positive_prompts: [x, ~]\n", "found nothing in it"),
    "a negative prompt a list": (DOCUMENT + "    negative_prompts: [[x]]\n",
                                 'moe.yaml:7:24: "negative_prompts" should be a list of texts, found a list in it'),
    "experts_per_token in words": ("experts_per_token: two\n" + DOCUMENT,
                                   'moe.yaml:1:20: "experts_per_token" should be a whole number, found "two"'),
    "experts_per_token a fraction": ("experts_per_token: 1.5\n" + DOCUMENT,
                                     '"experts_per_token" should be a whole number, found "1.5"'),
    "experts_per_token too large": ("experts_per_token: 99999999999999999999\n" + DOCUMENT,
                                    '"experts_per_token" should be a whole number'),
    "experts_per_token a list": ("experts_per_token: [2]\n" + DOCUMENT,
                                 'moe.yaml:1:20: "experts_per_token" should be a whole number, found a list'),
    "noise in words": (DOCUMENT + "    noise_scale: some\n", 'moe.yaml:7:18: "noise_scale" should be a number, found "some"'),
    "noise infinite": (DOCUMENT + "    noise_scale: inf\n", '"noise_scale" should be a number, found "inf"'),
    "residual_scale no number": (DOCUMENT + "    residual_scale: nan\n",
                                 'moe.yaml:7:21: "residual_scale" should be a number, found "nan"'),
    "noise a list": (DOCUMENT + "    noise_scale: [1]\n", '"noise_scale" should be a number, found a list'),
    "gate_mode a list": ("gate_mode: [hidden]\n" + DOCUMENT, 'moe.yaml:1:12: "gate_mode" should be a text, found a list'),
    "dtype a map": ("dtype: {a: b}\n" + DOCUMENT, 'moe.yaml:1:8: "dtype" should be a text, found a map'),
    # what is no possible value
    "negative noise": (DOCUMENT + "    noise_scale: -0.5\n", 'moe.yaml:7:18: "noise_scale" cannot be negative'),
    "experts_per_token zero": ("experts_per_token: 0\n" + DOCUMENT,
                               'moe.yaml:1:20: "experts_per_token" should be at least 1, found 0'),
    "experts_per_token negative": ("experts_per_token: -1\n" + DOCUMENT, '"experts_per_token" should be at least 1, found -1'),
    "experts_per_token more than experts": ("experts_per_token: 3\n" + DOCUMENT,
                                            'moe.yaml:1:20: "experts_per_token" is 3, but there are 2 experts: '
                                            'name more experts, or write "experts_per_token: 2"'),
    "one expert and the default": ("base_model: base\nexperts:\n  - source_model: one\n    positive_prompts: [x]\n",
                                   '"experts_per_token" is 2 (the default), but there is 1 expert: name more experts, '
                                   'or write "experts_per_token: 1"'),
    "gate_mode unknown": ("gate_mode: oracle\n" + DOCUMENT, 'moe.yaml:1:12: unknown gate_mode "oracle"; the modes are:'),
    "gate_mode misspelt": ("gate_mode: hiden\n" + DOCUMENT,
                           'unknown gate_mode "hiden" (did you mean "hidden"?); the modes are:'),
    "gate_mode empty": ('gate_mode: ""\n' + DOCUMENT, 'unknown gate_mode ""; the modes are:'),
    "dtype unknown": ("dtype: decimal\n" + DOCUMENT,
                      'moe.yaml:1:8: unknown dtype "decimal"; bfloat16, float16, float32 are possible'),
    "dtype misspelt": ("dtype: blfoat16\n" + DOCUMENT, 'unknown dtype "blfoat16" (did you mean "bfloat16"?); bfloat16'),
    "dtype no float": ("dtype: int8\n" + DOCUMENT, 'unknown dtype "int8"'),
    "dtype float64": ("dtype: float64\n" + DOCUMENT, 'unknown dtype "float64"'),
    # keys
    "key misspelt": ("gatemode: random\n" + DOCUMENT, 'moe.yaml:1:1: unknown key "gatemode" (did you mean "gate_mode"?)'),
    "key in capitals": ("Dtype: float16\n" + DOCUMENT, 'unknown key "Dtype" (did you mean "dtype"?)'),
    "expert's key misspelt": (DOCUMENT + "    positive_promts: [x]\n",
                              'moe.yaml:7:5: unknown key "positive_promts" (did you mean "positive_prompts"?)'),
})
def test_wrong_value(case, text, *sentences):
    refused(case, text, *sentences)


def test_all_gate_modes_are_listed(case):
    refused(case, "gate_mode: x\n" + DOCUMENT, "\n    hidden          hidden states of each prompt's last token (the default)",
            "\n    hidden_last     another name of hidden",
            "\n    hidden_avg      hidden states averaged over each prompt's tokens",
            "\n    cheap_embed     token embeddings of the prompts",
            "\n    random          normal noise",
            "\n    uniform_random  uniform noise")


def test_all_problems_of_a_document_appear_together(case):
    result = refused(case, """\
gate_mode: oracle
dtype: decimal
expert_per_token: 1
experts:
  - source_model: one
    noise_scale: loud
  - positive_prompts: {a: b}
""", "1:12: unknown gate_mode", "2:8: unknown dtype", 'no "base_model"',
         '3:1: unknown key "expert_per_token" (did you mean "experts_per_token"?)',
         '6:18: "noise_scale"', '7:5: this expert has no "source_model"', '7:23: "positive_prompts"')
    assert result.stderr.count("moe.yaml:") == 7


# -------------------------------------------------------------------------------------------------------------- prompts


@rows({mode: (mode,) for mode in ("hidden", "hidden_last", "hidden_avg", "cheap_embed")})
def test_prompts_are_needed(case, mode):
    refused(case, f"base_model: base\ngate_mode: {mode}\nexperts:\n  - source_model: one\n"
                  "  - source_model: two\n    positive_prompts: []\n",
            f'moe.yaml:4:5: expert 0 ("one") has no "positive_prompts" and no "data", and gate_mode "{mode}" needs one of them '
            '(gate_mode "random" needs none)',
            f'moe.yaml:5:5: expert 1 ("two") has no "positive_prompts"')


@rows({"random": ("random",), "uniform_random": ("uniform_random",)})
def test_random_routers_need_no_prompts(case, mode):
    built(case, f"base_model: base\ngate_mode: {mode}\nexperts:\n  - source_model: one\n  - source_model: two\n")


def test_experts_with_the_same_prompts(case):
    refused(case, DOCUMENT.replace("maths", "code"),
            "moe.yaml:3:3: all experts have the same prompts, so the router could not tell them apart",
            'use gate_mode "random"')


def test_same_prompts_do_not_matter_to_random_routers(case):
    built(case, "gate_mode: random\n" + DOCUMENT.replace("maths", "code"))


def test_negative_prompts_can_make_the_difference(case):
    built(case, DOCUMENT.replace("maths", "code") + "    negative_prompts: [poetry and prose]\n")


def test_empty_prompt_is_a_warning(case):
    built(case, DOCUMENT.replace("[maths]", '["", maths]'),
          warning="moe.yaml:6:23: an empty prompt says nothing about when this expert is wanted")


def test_one_prompt_alone_is_a_list_of_one(case):
    as_text = built(case, DOCUMENT.replace("[code]", "code"), out="text").tensors
    assert as_text == built(case, DOCUMENT, out="list").tensors


def test_prompts_that_are_almost_the_same(case):
    similar = DOCUMENT.replace("code", "a long prompt about programming").replace("maths", "a long prompt about programmin")
    built(case, "gate_mode: cheap_embed\n" + similar,
          warning='the router rows of experts 0 ("one") and 1 ("two") nearly coincide in every layer (cosine up to 0.99')


def test_prompts_that_coincide_in_some_layers(case):
    """The last token is the same, so layer 0 cannot tell them apart; layer 1 sees what stood before it."""
    base = case.model("base", rope_theta=10000.0)
    for name, tensor in base.tensors.items():
        if "layers.0.self_attn" in name or "layers.0.mlp" in name:  # weights large enough to drown the embedding
            tensor.data = bytes(byte + 3 if i % 2 else byte for i, byte in enumerate(tensor.data))  # 64 times as large
    case.model("base", base)
    built(case, DOCUMENT.replace("code", "abc x").replace("maths", "99 _ x"),
          warning="nearly coincide in layer 0 (cosine up to 1.000)")


# --------------------------------------------------------------------------------------------------------------- models


ALL_SAME = DOCUMENT.replace("two", "one")


def test_experts_that_are_all_the_same_model(case):
    refused(case, ALL_SAME, "moe.yaml:3:3: all experts are the same model",
            "--i-understand-this-is-not-useful-without-training")


def test_experts_that_are_all_the_same_model_when_asked_for(case):
    case.yaml(text=ALL_SAME)
    tensors = case.built("--i-understand-this-is-not-useful-without-training").tensors
    moe = "model.layers.0.block_sparse_moe.experts"
    assert tensors[f"{moe}.0.w1.weight"] == tensors[f"{moe}.1.w1.weight"]


def test_single_expert(case):
    config = built(case,
                   "base_model: base\nexperts_per_token: 1\nexperts:\n  - {source_model: one, positive_prompts: x}\n").config
    assert config["num_local_experts"] == 1 and config["num_experts_per_tok"] == 1


def test_base_can_be_an_expert(case):
    built(case, DOCUMENT.replace("two", "base"))


@rows({"Mixtral": ("Mixtral",), "mixtral": ("mixtral",), "without a value": ("",)})
def test_architecture(case, name):
    built(case, DOCUMENT + f"architecture: {name}\n")


@rows({
    "unknown": ("phi", 'architecture "phi" is not supported (supported: Mixtral, DeepSeek MoE, Qwen MoE, Qwen3 MoE, '),
    "in the middle of a name": ("MoE", 'architecture "MoE" is not supported (supported: '),
    "misspelt": ("mixtrall", 'architecture "mixtrall" is not supported (did you mean "Mixtral"?)'),
})
def test_architecture_that_is_not_there(case, name, sentence):
    refused(case, DOCUMENT + f"architecture: {name}\n", "moe.yaml:7:15: ", sentence)


# -------------------------------------------------------------------------------------------- warnings and other spellings


def test_unknown_key_is_ignored_with_a_warning(case):
    built(case, DOCUMENT + "tokenizer_source: union\n", warning='moe.yaml:7:1: unknown key "tokenizer_source" is ignored '
          '(known here: base_model, experts, ')


def test_unknown_key_of_an_expert_is_ignored_with_a_warning(case):
    built(case, DOCUMENT + "    comment: mine\n",
          warning='moe.yaml:7:5: unknown key "comment" is ignored (known here: source_model, positive_prompts, ')


@rows({
    "model": ("{model: base}",),
    "path": ("{path: base}",),
    "model and path": ("{model: {path: base}}",),
    "quoted": ('"base"',),
})
def test_spelling_of_a_model(case, spelling):
    built(case, f"base_model: {spelling}\n" + EXPERTS)


def test_anchors_and_merge_keys(case):
    tensors = built(case, """\
base_model: base
gate_mode: random
experts:
  - &quiet
    source_model: one
    residual_scale: 0
  - <<: *quiet
    source_model: two
""").tensors
    for expert in (0, 1):
        assert set(tensors[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"].values()) == {0.0}


def test_later_maps_of_a_merge_list_only_fill_gaps(case):
    tensors = built(case, """\
base_model: base
gate_mode: random
experts:
  - &loud {source_model: one, residual_scale: 1}
  - <<: [{residual_scale: 0}, *loud]
    source_model: two
""").tensors
    assert set(tensors["model.layers.0.block_sparse_moe.experts.1.w2.weight"].values()) == {0.0}


@rows({name: (name, stored) for name, stored in {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "bf16": "BF16", "fp16": "F16", "torch.float32": "F32"}.items()})
def test_spelling_of_a_dtype(case, name, stored):
    tensors = built(case, f"dtype: {name}\n" + DOCUMENT).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {stored}


@rows({"1": ("1", 1), "+2": ("+2", 2), "null": ("~", 2)})
def test_spelling_of_a_number(case, spelling, value):
    assert built(case, f"experts_per_token: {spelling}\n" + DOCUMENT).config["num_experts_per_tok"] == value


def test_windows_line_ends(case):
    built(case, DOCUMENT.replace("\n", "\r\n"))
