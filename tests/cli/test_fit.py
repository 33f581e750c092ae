"""Whether models, tokenizers and prompts belong together, and what the forward pass of the base needs."""
import json, math, os, struct

from harness import rows
from tiny_models import tensor, tiny_model, tokenizer

# -------------------------------------------------------------------------------------------- every expert and the base


RELATIVE = "it is no relative of the base, and its FFN would see hidden states that mean something else"


@rows({
    "num_hidden_layers": (dict(num_hidden_layers=3), 'num_hidden_layers differs: expert "one" has 3, the base "base" has 2; '
                          "every layer needs an FFN from every expert"),
    "hidden_size": (dict(hidden_size=64), 'hidden_size differs: expert "one" has 64, the base "base" has 32; '
                    "its FFN cannot read the base's hidden states"),
    "intermediate_size": (dict(intermediate_size=40), 'intermediate_size differs: expert "one" has 40, the base "base" has 48; '
                          "all experts of an MoE have the same FFN size"),
    "num_attention_heads": (dict(num_attention_heads=8),
                            f'num_attention_heads differs: expert "one" has 8, the base "base" has 4; {RELATIVE}'),
    "num_key_value_heads": (dict(num_key_value_heads=1),
                            f'num_key_value_heads differs: expert "one" has 1, the base "base" has 2; {RELATIVE}'),
    "head_dim": (dict(head_dim=16), f'head_dim differs: expert "one" has 16, the base "base" has 8; {RELATIVE}'),
    "hidden_act": (dict(hidden_act="gelu"), 'hidden_act differs: expert "one" has gelu, the base "base" has silu; '
                   "an MoE has one activation for all experts"),
})
def test_expert_that_does_not_fit(case, config, sentence):
    case.model("one", **config)
    case.refused(2, sentence)


@rows({
    "rms_norm_eps": (dict(rms_norm_eps=1e-6),
                     'rms_norm_eps differs: expert "one" has 1e-06, the base "base" has 1e-05; the base\'s is used'),
    "rope_theta": (dict(rope_theta=1e6),
                   'rotary embedding differs: expert "one" has theta 1000000, no scaling, the base "base" has '
                   "theta 10000, no scaling; the base's is used, and the expert was trained on another"),
    "rope_scaling": (dict(rope_scaling={"type": "linear", "factor": 2.0}),
                     "rotary embedding differs: expert \"one\" has theta 10000, "
                     '{"factor":2.0,"rope_type":"linear"}, the base "base" has theta 10000, no scaling'),
    "vocab_size": (dict(vocab_size=300), 'vocab_size differs: expert "one" has 300, the base "base" has 260; '
                   "embeddings and output are the base's, so tokens that only the expert has are lost"),
})
def test_expert_from_other_surroundings_is_a_warning(case, config, sentence):
    case.model("one", **config)
    case.built(warning=sentence)


@rows({
    "max_position_embeddings": (dict(max_position_embeddings=4096),),
    "sliding_window": (dict(sliding_window=32),),
    "eos_token_id": (dict(eos_token_id=3),),
    "torch_dtype": (dict(torch_dtype="float32"),),
    "rope_scaling of the default kind": (dict(rope_scaling={"rope_type": "default"}),),
    "theta in rope_parameters": (dict(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),),
    "tie_word_embeddings": (dict(tie_word_embeddings=True),),
})
def test_difference_that_does_not_matter(case, config):
    case.model("one", **config)
    case.built()


def test_all_problems_of_all_experts_appear_together(case):
    case.model("one", num_hidden_layers=3, hidden_act="gelu")
    two = tiny_model("two", intermediate_size=40)
    del two.tensors["model.norm.weight"]
    case.model("two", two)
    result = case.refused(2, "num_hidden_layers differs", "hidden_act differs", "intermediate_size differs",
                          f'{case.path("two")}: tensor "model.norm.weight" [32] is missing')
    assert len(result.stderr.splitlines()) == 4


def test_all_warnings_of_all_experts_appear_together(case):
    case.model("one", rms_norm_eps=1e-6, rope_theta=1e6)
    case.model("two", vocab_size=300)
    warnings = case.moe().exits(0).warnings()
    assert [warning.split()[1] for warning in warnings] == ["rms_norm_eps", "rotary", "vocab_size"], warnings


def test_expert_that_appears_twice_is_checked_once(case):
    case.model("one", rms_norm_eps=1e-6)
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n"
                   "  - source_model: one\n  - source_model: two\n  - source_model: one\n")
    case.built(warning='rms_norm_eps differs: expert "one"')


# ---------------------------------------------------------------------------------------------------- llama and mistral


def test_llama_and_mistral_are_not_mixed_by_accident(case):
    case.model("one", model_type="mistral")
    case.refused(2, "moe.yaml: these models cannot be combined:",
                 'Mixtral: "one" is a mistral model and the base model "base" a llama model; '
                 "pass --allow-crimes to combine them all the same")


def test_llama_and_mistral_with_allow_crimes(case):
    case.model("one", model_type="mistral")
    config = case.built("--allow-crimes").config
    assert config["model_type"] == "mixtral"


def test_no_allow_crimes(case):
    case.model("one", model_type="mistral")
    case.refused(2, "pass --allow-crimes", flags=["--allow-crimes", "--no-allow-crimes"])


def test_mistral_only(case):
    case.models("base", "one", "two", model_type="mistral", sliding_window=None)
    case.yaml("hidden")
    case.built()


# ----------------------------------------------------------------------------------------------------------- tokenizers


def base_with(case, **files):
    """The base with these files instead of its own; None removes one. "__" stands for the dot."""
    base = tiny_model("base")
    base.files |= {name.replace("__", "."): content for name, content in files.items()}
    case.model("base", base)


PROMPT_MODES = {mode: (mode,) for mode in ("hidden", "hidden_last", "hidden_avg", "cheap_embed")}
RANDOM_MODES = {mode: (mode,) for mode in ("random", "uniform_random")}


@rows(PROMPT_MODES)
def test_prompts_need_a_tokenizer(case, mode):
    base_with(case, tokenizer__json=None)
    case.yaml(mode)
    case.refused(1, f"{case.path('base')}: neither tokenizer.json nor tokenizer.model in this folder")


def sentencepiece_model(pieces):
    """tokenizer.model of a BPE: {text: (score, type)}."""
    def field(number, content):
        return bytes([number << 3 | 2]) + (bytes([len(content)]) if len(content) < 128 else b"") + content

    def piece(text, score, kind):
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))

    return b"".join(piece(text, *how) for text, how in pieces.items()) + field(2, bytes([3 << 3, 2]))


PIECES = ({"<unk>": (0, 2), "<s>": (0, 3), "</s>": (0, 3)} | {f"<0x{byte:02X}>": (0, 6) for byte in range(250)}
          | {text: (-i, 1) for i, text in enumerate(["ab", "\u2581ab", "\u2581", "a", "b", "c"])})


def test_sentencepiece_model_alone(case):
    """Its ids give the routers, and the result has it and no tokenizer.json."""
    base = tiny_model("base")
    base.files |= {"tokenizer.json": None, "tokenizer.model": sentencepiece_model(PIECES),
                   "tokenizer_config.json": b'{"tokenizer_class": "LlamaTokenizer"}'}
    case.model("base", base)
    for name in ("one", "two"):
        expert = tiny_model(name)
        expert.files |= base.files
        case.model(name, expert)
    case.yaml(text='base_model: base\ngate_mode: cheap_embed\nexperts:\n  - {source_model: one, positive_prompts: "abc"}\n'
                   '  - {source_model: two, positive_prompts: "<s>c ab\\n"}\n')
    out = case.built()
    assert out.read("tokenizer.model") == base.files["tokenizer.model"] and "tokenizer.json" not in out.files()
    # <s> U+2581ab c; <s> <s> U+2581 c U+2581ab <0x0A>
    ids = list(PIECES)
    expected = [[1, ids.index("\u2581ab"), ids.index("c")],
                [1, 1, ids.index("\u2581"), ids.index("c"), ids.index("\u2581ab"), 3 + 10]]
    case.moe("--dry-run", out="other").exits(0).prints("(2 prompts, 9 tokens)")
    hidden = base.config["hidden_size"]
    embedding = base.tensors["model.embed_tokens.weight"].values()
    router = out.tensors["model.layers.0.block_sparse_moe.gate.weight"].values()
    for expert, tokens in enumerate(expected):
        total = [sum(embedding[token * hidden + i] for token in tokens) for i in range(hidden)]
        row = router[expert * hidden:(expert + 1) * hidden]
        norm = math.sqrt(sum(x * x for x in total))
        assert all(abs(x / norm - y) < 0.01 for x, y in zip(total, row)), (expert, total, row)


@rows({
    "damaged": (b"x", b"{}", 1, "tokenizer.model: not a SentencePiece model, or damaged"),
    "of another class": (sentencepiece_model(PIECES), b'{"tokenizer_class": "GemmaTokenizer"}', 2,
                         'only a SentencePiece tokenizer.model here, for the class "GemmaTokenizer"'),
})
def test_sentencepiece_model_that_cannot_be_read(case, content, config, code, sentence):
    base_with(case, tokenizer__json=None, tokenizer__model=content, tokenizer_config__json=config)
    case.yaml("hidden")
    case.refused(code, sentence)


@rows(RANDOM_MODES)
def test_random_routers_need_no_tokenizer(case, mode):
    base_with(case, tokenizer__json=None)
    case.yaml(mode)
    assert "tokenizer.json" not in case.built().files()


@rows(RANDOM_MODES)
def test_random_routers_need_no_tokenizer_that_can_be_read(case, mode):
    base_with(case, tokenizer__json=None, tokenizer__model=b"sentencepiece")
    case.yaml(mode)
    out = case.built(warning="the base's tokenizer is copied as it is, but cannot be compared with the experts': "
                             f"{case.path('base')}/tokenizer.model: not a SentencePiece model")
    assert out.read("tokenizer.model") == b"sentencepiece" and "tokenizer.json" not in out.files()


@rows({
    "empty": (b"",),
    "no JSON": (b"{",),
    "no tokenizer": (b"{}",),
    "another model": (json.dumps(tokenizer() | {"model": {"type": "Magic"}}).encode(),),
    "bad UTF-8": (b'{"\xff": 1}',),
    "a hundred thousand levels": (b"[" * 100_000,),
})
def test_broken_tokenizer_json(case, content):
    base_with(case, tokenizer__json=content)
    case.yaml("hidden")
    case.refused(1, f"{case.path('base')}/tokenizer.json: ")


def test_tokenizer_json_that_is_too_large(case):
    case.model("base")
    os.truncate(case.path("base/tokenizer.json"), 300_000_000)
    case.yaml("hidden")
    case.refused(1, "base/tokenizer.json: 300 MB is too large, at most 268 MB expected here")


@rows({
    "no JSON": ("tokenizer_config.json", b"{", "not valid JSON"),
    "a list": ("tokenizer_config.json", b"[]", "should be a JSON object"),
    "BOS a number": ("tokenizer_config.json", b'{"bos_token": 1}', '"bos_token" should be a string, found number'),
    "content a number": ("tokenizer_config.json", b'{"bos_token": {"content": 1}}',
                         '"content" should be a string, found number'),
    "class a number": ("tokenizer_config.json", b'{"tokenizer_class": 1}',
                       '"tokenizer_class" should be a string, found number'),
    "special_tokens_map no JSON": ("special_tokens_map.json", b"}", "not valid JSON"),
})
def test_broken_tokenizer_config(case, file, content, sentence):
    base = tiny_model("base")
    base.files |= {"tokenizer_config.json": b"{}", file: content}
    case.model("base", base)
    case.yaml("hidden")
    case.refused(1, f"{case.path('base')}/{file}: {sentence}")


@rows({
    "a text": ({"bos_token": "<s>"}, None, 1),
    "an object": ({"bos_token": {"content": "<s>", "lstrip": False}}, None, 1),
    "null": ({"bos_token": None, "added_tokens_decoder": {}}, {"bos_token": "<s>"}, 0),
    "null, in older files": ({"bos_token": None}, {"bos_token": "<s>"}, 1),
    "none": ({}, {}, 0),
    "in special_tokens_map": ({}, {"bos_token": "<s>"}, 1),
    "the default of a Llama tokenizer": ({"tokenizer_class": "LlamaTokenizerFast"}, None, 1),
    "no default for others": ({"tokenizer_class": "GPT2Tokenizer"}, None, 0),
})
def test_bos_token_stands_in_front_of_every_prompt(case, config, special_tokens, tokens):
    base = tiny_model("base")
    base.files["tokenizer_config.json"] = json.dumps(config).encode()
    if special_tokens is not None:
        base.files["special_tokens_map.json"] = json.dumps(special_tokens).encode()
    case.model("base", base)
    case.yaml(text='base_model: base\ngate_mode: cheap_embed\nexperts:\n  - {source_model: one, positive_prompts: "abc"}\n'
                   '  - {source_model: two, positive_prompts: "xyz"}\n')
    case.moe("--dry-run").exits(0).prints(f"(2 prompts, {2 * (3 + tokens)} tokens)")


@rows(PROMPT_MODES | RANDOM_MODES)
def test_other_vocabulary_is_a_warning(case, mode):
    one = tiny_model("one")
    other = tokenizer(special=("<s>", "<|end|>"))
    one.files["tokenizer.json"] = json.dumps(other).encode()
    case.model("one", one)
    case.yaml(mode)
    case.built(warning='the tokenizers of the base and of "one" differ in 2 tokens (such as "</s>"); the result has the base\'s')


def test_same_vocabulary_in_another_file_is_no_warning(case):
    one = tiny_model("one")
    one.files["tokenizer.json"] = json.dumps(tokenizer(), indent=3).encode()
    case.model("one", one)
    case.built()


def test_expert_needs_no_tokenizer(case):
    one = tiny_model("one")
    one.files["tokenizer.json"] = None
    case.model("one", one)
    case.yaml("hidden")
    case.built()


def test_broken_tokenizer_of_an_expert(case):
    one = tiny_model("one")
    one.files["tokenizer.json"] = b"{"
    case.model("one", one)
    result = case.moe().exits(0)
    assert len(result.warnings()) == 1
    result.says(f'the tokenizer of "one" cannot be compared with the base\'s: {case.path("one")}/tokenizer.json: ')


@rows(PROMPT_MODES)
def test_token_beyond_the_embeddings(case, mode):
    case.model("base", vocab_size=100)
    case.yaml(mode)
    case.refused(2, 'expert 0: the prompt "def f(x):" has token ', "and the base's embeddings end at 99",
                 "expert 1: the prompt")


def test_prompt_without_tokens(case):
    base_with(case, tokenizer_config__json=b"{}")
    case.yaml(text='base_model: base\nexperts:\n  - {source_model: one, positive_prompts: ["", x]}\n'
                   "  - {source_model: two, positive_prompts: y}\n")
    case.refused(2, 'expert 0: the prompt "" has no tokens')


def test_negative_prompt_without_tokens(case):
    base_with(case, tokenizer_config__json=b"{}")
    case.yaml(text='base_model: base\nexperts:\n  - {source_model: one, positive_prompts: x, negative_prompts: ""}\n'
                   '  - {source_model: two, positive_prompts: y}\n')
    case.refused(2, 'expert 0: the prompt "" has no tokens')


def test_prompt_that_is_no_utf8(case):
    case.write("moe.yaml", b"base_model: base\nexperts:\n  - {source_model: one, positive_prompts: caf\xe9}\n"
                           b"  - {source_model: two, positive_prompts: x}\n")
    case.refused(1, "a prompt of expert 0: ", "the text is not UTF-8")


# --------------------------------------------------------------------------------------------------- the forward pass


HIDDEN_MODES = {mode: (mode,) for mode in ("hidden", "hidden_last", "hidden_avg")}
NO_FORWARD_PASS = "gate_mode cheap_embed or random need no forward pass"


def all_models(case, **config):
    case.models("base", "one", "two", **config)


@rows({
    "gelu": (dict(hidden_act="gelu"), f'activation "gelu" is not supported by the forward pass; {NO_FORWARD_PASS}'),
    "odd head_dim": (dict(head_dim=9), f"an odd head_dim (9) is not supported by the forward pass; {NO_FORWARD_PASS}"),
    "rope of another kind": (dict(rope_scaling={"rope_type": "proportional", "factor": 2.0}),
                             'the forward pass does not know rope type "proportional" (it knows default, linear, dynamic, '
                             'llama3, yarn and longrope); ' + NO_FORWARD_PASS),
    "part of a head": (dict(rope_scaling={"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}),
                       "partial_rotary_factor other than 1 is not supported"),
})
def test_model_that_only_the_other_gate_modes_take(case, config, sentence):
    all_models(case, **config)
    case.yaml("hidden")
    case.refused(2, f"{case.path('base')}/config.json: {sentence}")
    case.refused(2, sentence, flags=["--dry-run"])
    for mode in ("cheap_embed", "random"):
        case.yaml(mode)
        case.built(out=mode)


def test_unknown_rope_type_is_kept_for_readers_that_know_it(case):
    rope = {"rope_type": "proportional", "factor": 2.0}
    all_models(case, rope_scaling=rope)
    assert case.built().config["rope_scaling"] == rope


@rows({
    "sliding_window zero": (dict(model_type="mistral", sliding_window=0), '"sliding_window" is 0'),
    "no factor": (dict(rope_scaling={"type": "linear"}), 'rope_scaling of type "linear" has no "factor"'),
    "factor zero": (dict(rope_scaling={"type": "linear", "factor": 0}), '"factor" in rope_scaling is 0'),
    "factor negative": (dict(rope_scaling={"type": "linear", "factor": -2}), '"factor" in rope_scaling is -2'),
    "factor a text": (dict(rope_scaling={"type": "linear", "factor": "2"}), '"factor" should be a number, found string'),
    "factor beyond float32": (dict(rope_scaling={"type": "linear", "factor": 1e300}),
                              "its rope settings give a rotation of 1e-300 radians per token"),
    "theta beyond float32": (dict(rope_theta=1e300), "its rope settings give a rotation of "),
    "llama3 without low_freq_factor": (dict(rope_scaling={"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}),
                                       'rope_scaling of type "llama3" has no "low_freq_factor"'),
    "longrope with short lists": (dict(rope_scaling={"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
                                  '"short_factor" in rope_scaling should be a list of '),
    "yarn with a text": (dict(rope_scaling={"rope_type": "yarn", "factor": 2.0, "truncate": "no"}),
                         '"truncate" should be true or false'),
})
def test_settings_that_make_no_sense_to_the_forward_pass(case, config, sentence):
    all_models(case, **config)
    case.yaml("hidden")
    case.refused(1, f"{case.path('base')}/config.json: {sentence}")


@rows({
    "linear": ({"type": "linear", "factor": 2.0},),  # the two kinds with an older spelling are written in both
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0},),
    "llama3": ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32},),
    "yarn": ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},),
})
def test_rope_type_of_the_forward_pass(case, scaling):
    all_models(case, rope_scaling=scaling)
    case.yaml("hidden")
    kind = scaling.get("type", scaling.get("rope_type"))
    kept = scaling | {"rope_type": kind} | ({"type": kind} if kind in ("linear", "dynamic") else {})
    assert case.built().config["rope_scaling"] == kept


def test_prompt_beyond_the_length_of_dynamic_rope(case):
    all_models(case, rope_scaling={"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=8)
    case.yaml("hidden")
    case.built()


def test_weights_of_float64_only_without_a_forward_pass(case):
    base = tiny_model("base")
    name = "model.layers.0.mlp.up_proj.weight"
    base.tensors[name] = tensor("F64", [48, 32], base.tensors[name].values())
    case.model("base", base)
    case.yaml("hidden")
    case.refused(2, f'tensor "{name}" is float64; the forward pass takes float32, float16 and bfloat16')
    case.yaml("cheap_embed")
    case.built()


def with_nan(case, name, value=math.nan, **config):
    base = tiny_model("base", **config)
    values = base.tensors[name].values()
    values[:] = [value] * len(values)
    base.tensors[name] = tensor(base.tensors[name].dtype, base.tensors[name].shape, values)
    case.model("base", base)


@rows(HIDDEN_MODES)
def test_nan_in_the_embeddings(case, mode):
    with_nan(case, "model.embed_tokens.weight")
    case.yaml(mode)
    case.refused(1, f"{case.path('base')}: embeddings of these prompts hold infinite values or NaN")


@rows({"attention": ("model.layers.0.self_attn.o_proj.weight", math.nan),
       "FFN": ("model.layers.0.mlp.down_proj.weight", math.nan),
       "norm": ("model.layers.0.input_layernorm.weight", math.inf)})
def test_nan_in_a_layer(case, name, value):
    with_nan(case, name, value)
    case.yaml("hidden")
    case.refused(1, f"{case.path('base')}: what layer 0 computes holds infinite values or NaN: its weights are damaged\n")


def test_nan_in_a_float16_model(case):
    for name in ("one", "two"):
        case.model(name, tiny_model(name, "F16", torch_dtype="float16"))
    with_nan(case, "model.layers.0.mlp.down_proj.weight", dtype="F16", torch_dtype="float16")
    case.yaml("hidden")
    case.refused(1, "its weights are damaged, or its numbers grow beyond float16")


@rows({"random": ("random",), "cheap_embed": ("cheap_embed",)})
def test_nan_is_copied_where_nothing_is_computed(case, mode):
    with_nan(case, "model.layers.0.mlp.down_proj.weight")
    case.yaml(mode)
    case.built()
