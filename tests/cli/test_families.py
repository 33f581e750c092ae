"""Output families: which one is chosen, what each refuses and why, shared experts, and what is written for each."""
import json, sys
from pathlib import Path

from harness import rows
from tiny_models import pack, tiny_model, tokenizer, zeros

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gguf"))
from reader import File as GgufFile

EXPERTS = """\
base_model: base
gate_mode: {mode}
{top}experts:
  - source_model: one
    positive_prompts: ["def f(x):"]
  - source_model: two
    positive_prompts: ["2 + 2 ="]
"""
SHARED = """\
shared_experts:
  - source_model: {model}
{more}"""
PROMPTS = '    positive_prompts: ["in general"]\n'


def document(top="", mode="cheap_embed", shared=None, more="", count=1):
    """Two experts; `shared` is the model of a shared expert and `more` its further lines."""
    text = EXPERTS.format(mode=mode, top=top)
    if shared:
        text += SHARED.format(model=shared, more=more)
        text += f"  - source_model: {shared}\n{more}" * (count - 1)
    return text


def family(case, model_type="llama", **config):
    case.models("base", "one", "two", model_type=model_type, **config)


def refused(case, text, *sentences):
    case.yaml(text=text)
    return case.refused(2, *sentences)


def built(case, text, *flags, **how):
    case.yaml(text=text)
    return case.built(*flags, **how)


# -------------------------------------------------------------------------------------------------------------- choosing


@rows({
    "llama": ("llama", dict(), "MixtralForCausalLM"),
    "mistral": ("mistral", dict(), "MixtralForCausalLM"),
    "llama with a shared expert": ("llama", dict(shared="base"), "DeepseekForCausalLM"),
    "llama with a shared expert that has prompts": ("llama", dict(shared="base", more=PROMPTS), "Qwen2MoeForCausalLM"),
    "mistral with a shared expert": ("mistral", dict(shared="one"), "DeepseekForCausalLM"),
    "qwen2": ("qwen2", dict(shared="base", more=PROMPTS), "Qwen2MoeForCausalLM"),
    "qwen2, random routers": ("qwen2", dict(mode="random", shared="base"), "Qwen2MoeForCausalLM"),
    "qwen2, uniform random routers": ("qwen2", dict(mode="uniform_random", shared="base"), "Qwen2MoeForCausalLM"),
    "qwen3": ("qwen3", dict(), "Qwen3MoeForCausalLM"),
    # by name: its beginning in any case, as mergekit takes it, or what config.json calls it
    "deepseek": ("llama", dict(top="architecture: deepseek\n"), "DeepseekForCausalLM"),
    "DeepSeek MoE": ("llama", dict(top="architecture: DeepSeek MoE\n", shared="base"), "DeepseekForCausalLM"),
    "qwen": ("qwen3", dict(top="architecture: qwen\n"), "Qwen3MoeForCausalLM"),
    "Qwen MoE": ("llama", dict(top="architecture: Qwen MoE\n", shared="one", more=PROMPTS), "Qwen2MoeForCausalLM"),
    "qwen2_moe": ("qwen2", dict(top="architecture: qwen2_moe\n", shared="one", more=PROMPTS), "Qwen2MoeForCausalLM"),
    "Qwen3MoeForCausalLM": ("qwen3", dict(top="architecture: Qwen3MoeForCausalLM\n"), "Qwen3MoeForCausalLM"),
    "granite": ("llama", dict(top="architecture: granite\n"), "GraniteMoeSharedForCausalLM"),
})
def test_family_that_is_chosen(case, model_type, how, class_name):
    family(case, model_type)
    assert built(case, document(**how)).config["architectures"] == [class_name]


def test_every_family_says_why_it_does_not_fit(case):
    """What mergekit calls "No output architecture found"."""
    family(case, "qwen2")
    result = refused(
        case, document(), "moe.yaml: these models cannot be combined:",
        '\n  Mixtral: Mixtral takes llama or mistral models, and "base" is a qwen2 model',
        '\n  DeepSeek MoE: DeepSeek MoE takes llama or mistral models, and "base" is a qwen2 model',
        '\n  Qwen MoE: Qwen MoE needs exactly one shared expert, which every token passes through: '
        'add "shared_experts" with one model (the base model, say)',
        '\n  Qwen3 MoE: Qwen3 MoE takes qwen3 models, and "base" is a qwen2 model\n')
    assert "Granite" not in result.stderr


def test_only_the_named_family_says_why_it_does_not_fit(case):
    result = refused(case, document(top="architecture: qwen3\n"), "Qwen3 MoE takes qwen3 models")
    assert "Mixtral" not in result.stderr and len(result.stderr.splitlines()) == 2


@rows({
    "no shared experts in Mixtral": ("llama", dict(top="architecture: mixtral\n", shared="base"),
                                     'Mixtral has no shared experts: remove "shared_experts"'),
    "no shared experts in Qwen3 MoE": ("qwen3", dict(shared="base"), 'Qwen3 MoE has no shared experts: remove "shared_experts"'),
    "two in DeepSeek MoE": ("llama", dict(shared="base", count=2),
                            'DeepSeek MoE has room for one shared expert, and "shared_experts" lists 2'),
    "two in Qwen MoE": ("qwen2", dict(shared="base", more=PROMPTS, count=2),
                        'Qwen MoE has room for one shared expert, and "shared_experts" lists 2'),
    "prompts in DeepSeek MoE": ("llama", dict(top="architecture: deepseek\n", shared="base", more=PROMPTS),
                                "DeepSeek MoE gives its shared expert every token at full weight, so prompts say nothing about it: "
                                'remove the prompts of "base" under "shared_experts"'),
    "no prompts in Qwen MoE": ("qwen2", dict(shared="base"),
                               'Qwen MoE weighs its shared expert by a router of its own, which gate_mode "cheap_embed" makes from '
                               'prompts: give "base" under "shared_experts" its "positive_prompts" (gate_mode "random" needs none)'),
    "no prompts in Qwen MoE, the default mode": ("qwen2", dict(mode="hidden", shared="base"), 'which gate_mode "hidden" makes from'),
    "qwen2 with qwen3's": ("qwen3", dict(top="architecture: qwen moe\n", shared="base"),
                           'Qwen MoE takes qwen2 or llama or mistral models, and "base" is a qwen3 model'),
})
def test_family_that_does_not_fit(case, model_type, how, sentence):
    family(case, model_type)
    refused(case, document(**how), sentence)


def test_models_of_two_types(case):
    case.models("base", "one", model_type="qwen2")
    case.model("two", model_type="llama")
    text = document(shared="base", more=PROMPTS)
    refused(case, text, 'Qwen MoE: "two" is a llama model and the base model "base" a qwen2 model; pass --allow-crimes')
    assert built(case, text, "--allow-crimes").config["model_type"] == "qwen2_moe"


@rows({
    "Qwen MoE": ("llama", "architecture: qwen moe\n", PROMPTS),
    "DeepSeek MoE": ("llama", "architecture: deepseek\n", ""),
    "Granite MoE Shared": ("llama", "architecture: granite\n", ""),
})
def test_heads_that_do_not_make_up_the_hidden_size(case, model_type, top, more):
    family(case, model_type, head_dim=16)
    refused(case, document(top=top, shared="base", more=more),
            'the 4 heads of "base" have 16 elements each, and ', "knows only heads that make up the hidden_size of 32")


def test_rope_that_deepseek_s_code_does_not_know(case):
    family(case, rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32})
    refused(case, document(top="architecture: deepseek\n"),
            'the rotary embedding of "base" is of type "yarn", and the code of DeepSeek MoE knows only default, linear, dynamic')


def biased(case, *names):
    for name in names:
        model = tiny_model(name, attention_bias=True)
        for layer in (0, 1):
            for part, size in (("q", 32), ("k", 16), ("v", 16), ("o", 32)):
                model.tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = zeros("BF16", [size])
        case.model(name, model)


def test_attention_biases_of_a_llama_have_a_place_in_deepseek_moe(case):
    biased(case, "base", "one", "two")
    refused(case, document(top="architecture: qwen moe\n", shared="base", more=PROMPTS),
            'Qwen MoE: "base" has "model.layers.0.self_attn.o_proj.bias", and Qwen MoE has no place for it (it would be lost)')
    out = built(case, document())
    assert out.config["model_type"] == "deepseek" and out.config["attention_bias"] is True
    assert out.tensors["model.layers.1.self_attn.o_proj.bias"].shape == [32]


# -------------------------------------------------------------------------------------------------------- shared experts


def test_shared_expert_that_is_neither_base_nor_expert(case):
    """mergekit never opens it, and crashes."""
    case.model("fourth")
    out = built(case, document(shared="fourth"))
    source = tiny_model("fourth").tensors
    for part in ("gate_proj", "up_proj", "down_proj"):
        assert out.tensors[f"model.layers.1.mlp.shared_experts.{part}.weight"] == source[f"model.layers.1.mlp.{part}.weight"]


def test_shared_expert_that_is_not_there(case):
    refused(case, document(shared="nowhere"), 'model "nowhere"')


def test_shared_expert_that_does_not_fit(case):
    case.model("fourth", intermediate_size=40)
    refused(case, document(shared="fourth"), 'intermediate_size differs: shared expert "fourth" has 40, the base "base" has 48')


def test_shared_expert_from_other_surroundings_is_a_warning(case):
    case.model("fourth", rms_norm_eps=1e-6)
    built(case, document(shared="fourth"), warning='rms_norm_eps differs: shared expert "fourth" has 1e-06')


def test_damaged_shared_expert(case):
    model = tiny_model("fourth")
    del model.tensors["model.layers.1.mlp.up_proj.weight"]
    case.model("fourth", model)
    case.yaml(text=document(shared="fourth"))
    case.refused(1, f'{case.path("fourth")}: tensor "model.layers.1.mlp.up_proj.weight" [48, 32] is missing')


@rows({
    "DeepSeek MoE": ("llama", "", "mlp.shared_experts.{}.weight"),
    "Qwen MoE": ("qwen2", PROMPTS, "mlp.shared_expert.{}.weight"),
})
def test_noise_and_residual_scale_of_a_shared_expert(case, model_type, more, name):
    family(case, model_type)
    more += "    residual_scale: 0.5\n    noise_scale: 0.25\n"
    tensors = built(case, document(shared="base", more=more)).tensors
    source = tiny_model("base").tensors
    for part, scale in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0.5)):
        made = tensors["model.layers.0." + name.format(part)].values()
        clean = source[f"model.layers.0.mlp.{part}.weight"].values()
        noise = [x / scale - y for x, y in zip(made, clean)]
        deviation = (sum(x * x for x in noise) / len(noise)) ** 0.5
        assert 0.23 < deviation < 0.27, f"{part}: {deviation}"
    for expert in (0, 1):
        assert tensors[f"model.layers.0.mlp.experts.{expert}.down_proj.weight"] == \
            tiny_model(("one", "two")[expert]).tensors["model.layers.0.mlp.down_proj.weight"]


def test_router_of_a_shared_expert(case):
    """Its row is made as the others' are, from its own prompts."""
    family(case, "qwen2")
    tensors = built(case, document(shared="base", more='    positive_prompts: ["def f(x):"]\n')).tensors
    for layer in (0, 1):
        row = tensors[f"model.layers.{layer}.mlp.shared_expert_gate.weight"]
        assert row.shape == [1, 32] and row.values() == tensors[f"model.layers.{layer}.mlp.gate.weight"].values()[:32]


def test_router_of_a_shared_expert_competes_with_none(case):
    """The prompts above are those of expert 0, and no warning says that their rows coincide."""
    family(case, "qwen2")
    built(case, document(shared="base", more='    positive_prompts: ["def f(x):"]\n'))


def test_random_rows_of_experts_do_not_depend_on_shared_ones(case):
    deepseek = built(case, document(mode="random", top="architecture: deepseek\n")).tensors
    qwen = built(case, document(mode="random", top="architecture: qwen moe\n", shared="base"), out="out2").tensors
    gate = deepseek["model.layers.0.mlp.gate.weight"]
    assert gate == qwen["model.layers.0.mlp.gate.weight"]
    assert qwen["model.layers.0.mlp.shared_expert_gate.weight"].values() not in (gate.values()[:32], gate.values()[32:])


def test_negative_prompts_alone(case):
    refused(case, document(shared="base", more="    negative_prompts: [x]\n"),
            'moe.yaml:9:5: this shared expert has "negative_prompts" and no "positive_prompts"')


def test_prompt_of_a_shared_expert_without_tokens(case):
    base = tiny_model("base", model_type="qwen2", bos_token_id=None)
    base.files["tokenizer_config.json"] = b"{}"
    case.model("base", base)
    case.models("one", "two", model_type="qwen2")
    case.yaml(text=document(shared="base", more='    positive_prompts: [""]\n'))
    case.refused(2, 'the shared expert: the prompt "" has no tokens')


def test_reports_name_the_shared_expert(case):
    family(case, "qwen2")
    case.yaml(text=document(shared="base", more=PROMPTS + "    residual_scale: 0.5\n"))
    case.moe("--dry-run").exits(0).prints("Qwen MoE: 2 layers, 2 experts, 2 per token",
                                          "shared    base: FFN of every layer (6 tensors, ",
                                          "weighed for every token by a router of its own (1 prompt), down x 0.5")
    plan = case.plan()
    assert [model["source_model"] for model in plan["shared_experts"]] == ["base"]
    assert "Every token also passes through the shared expert `base`, weighed for every token by a router of its own (1 prompt)." in \
        case.built().read("README.md").decode()


def test_card_of_a_family_whose_code_is_on_the_hub(case):
    card = built(case, document(shared="base")).read("README.md").decode()
    assert "Every token also passes through the shared expert `base`, added for every token." in card
    assert 'torch_dtype="auto", trust_remote_code=True)' in card


def test_active_parameters_count_the_shared_expert(case):
    text = document(top="experts_per_token: 1\n", shared="base")
    case.yaml(text=text)
    plan = case.plan()["parameters"]
    assert plan["total"] - plan["active"] == 3 * 48 * 32 * 2  # one of two experts, in two layers


# ------------------------------------------------------------------------------------------------------ what is written


def values(tensor):
    return set(tensor.values())


def test_biases_that_a_llama_has_not_become_zeros(case):
    tensors = built(case, document(shared="base", more=PROMPTS)).tensors
    for layer in (0, 1):
        for part, size in (("q", 32), ("k", 16), ("v", 16)):
            bias = tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"]
            assert bias.dtype == "BF16" and bias.shape == [size] and values(bias) == {0.0}
    assert "model.layers.0.self_attn.o_proj.bias" not in tensors


def test_biases_of_qwen2_and_norms_of_qwen3_are_the_base_s(case):
    family(case, "qwen2")
    out = built(case, document(shared="base", more=PROMPTS)).tensors
    name = "model.layers.1.self_attn.k_proj.bias"
    assert out[name] == tiny_model("base", model_type="qwen2").tensors[name] and len(values(out[name])) > 1
    family(case, "qwen3", head_dim=16)
    out = built(case, document(), out="out3")
    assert out.tensors["model.layers.1.self_attn.q_norm.weight"].shape == [16] and out.config["head_dim"] == 16


@rows({"qwen2": ("qwen2", dict(shared="base", more=PROMPTS)), "qwen3": ("qwen3", dict()),
       "llama": ("llama", dict(shared="base"))})
def test_tied_embeddings(case, model_type, how):
    family(case, model_type, tie_word_embeddings=True)
    out = built(case, document(**how))
    assert out.config["tie_word_embeddings"] is True and "lm_head.weight" not in out.tensors


WRITTEN = {
    "Qwen MoE": ("qwen2", dict(shared="base", more=PROMPTS), dict(
        model_type="qwen2_moe", num_experts=2, num_experts_per_tok=2, moe_intermediate_size=48,
        shared_expert_intermediate_size=48, norm_topk_prob=True, decoder_sparse_step=1, use_sliding_window=False,
        sliding_window=None, qkv_bias=True)),
    "Qwen3 MoE": ("qwen3", dict(), dict(
        model_type="qwen3_moe", num_experts=2, num_experts_per_tok=2, moe_intermediate_size=48, norm_topk_prob=True,
        decoder_sparse_step=1, head_dim=8, attention_bias=False, use_sliding_window=False, sliding_window=None)),
    "DeepSeek MoE": ("llama", dict(shared="base"), dict(
        model_type="deepseek", n_routed_experts=2, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=48,
        first_k_dense_replace=0, moe_layer_freq=1, scoring_func="softmax", norm_topk_prob=True)),
    "DeepSeek MoE without a shared expert": ("llama", dict(top="architecture: deepseek\n"), dict(n_shared_experts=None)),
    "Granite MoE Shared": ("llama", dict(top="architecture: granite\n", shared="base"), dict(
        model_type="granitemoeshared", num_local_experts=2, num_experts_per_tok=2, shared_intermediate_size=48,
        attention_multiplier=8 ** -0.5, embedding_multiplier=1.0, residual_multiplier=1.0, logits_scaling=1.0)),
    "Granite MoE Shared without a shared expert": ("llama", dict(top="architecture: granite\n"), dict(shared_intermediate_size=0)),
}


@rows(WRITTEN)
def test_config_json(case, model_type, how, keys):
    family(case, model_type, head_dim=8)
    config = built(case, document(**how)).config
    keys = keys | dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
                       rope_theta=10000.0, torch_dtype="bfloat16", rms_norm_eps=1e-5, vocab_size=260, eos_token_id=257)
    found = {key: config.get(key, "absent") for key in keys}
    assert found == keys, {key: (found[key], keys[key]) for key in keys if found[key] != keys[key]}


def test_window_of_the_upper_layers_is_left_out_with_a_warning(case):
    family(case, "qwen3", use_sliding_window=True, sliding_window=16, max_window_layers=1, head_dim=8)
    config = built(case, document(), warning='"base" lets its layers from 1 on see only the last 16 tokens; in the result, as in '
                                             "mergekit's, every layer sees all of them").config
    assert config["use_sliding_window"] is False and config["sliding_window"] is None


@rows({name: row[:2] for name, row in WRITTEN.items()})
def test_verify(case, model_type, how):
    family(case, model_type, head_dim=8)
    case.yaml(text=document(**how))
    case.built("--verify").result.says("equals what it was made of")


@rows({"Qwen MoE": ("qwen2", dict(shared="base", more=PROMPTS)), "Qwen3 MoE": ("qwen3", dict())})
def test_fused_layout_is_the_per_expert_one_stacked(case, model_type, how):
    family(case, model_type)
    apart = built(case, document(**how)).tensors
    fused = built(case, document(**how), "--layout", "fused", out="fused").tensors
    for layer in (0, 1):
        prefix = f"model.layers.{layer}.mlp.experts."
        stacked = b"".join(apart[f"{prefix}{e}.{part}_proj.weight"].data for e in (0, 1) for part in ("gate", "up"))
        assert fused[prefix + "gate_up_proj"].data == stacked and fused[prefix + "gate_up_proj"].shape == [2, 96, 32]
        assert fused[prefix + "down_proj"].data == b"".join(apart[f"{prefix}{e}.down_proj.weight"].data for e in (0, 1))
    others = {name for name in apart if ".experts." not in name}
    assert others == {name for name in fused if ".experts." not in name} and all(apart[n] == fused[n] for n in others)


def test_fused_layout_of_deepseek_moe_has_no_reader(case):
    case.yaml(text=document(shared="base"))
    case.refused(2, "--layout fused: no program reads DeepSeek MoE that way", flags=["--layout", "fused"])


def test_granite_holds_what_deepseek_does(case):
    """Its experts come stacked in one tensor, and its shared expert as gate above up, whatever --layout says."""
    more = "    noise_scale: 0.1\n    residual_scale: 0.5\n"
    apart = built(case, document(shared="base")).tensors
    granite = built(case, document(top="architecture: granite\n", shared="base"), out="granite").tensors
    moe = "model.layers.1.block_sparse_moe."
    assert granite[moe + "input_linear.weight"].shape == [2, 96, 32] and granite[moe + "output_linear.weight"].shape == [2, 32, 48]
    assert granite[moe + "router.layer.weight"] == apart["model.layers.1.mlp.gate.weight"]
    assert granite[moe + "input_linear.weight"].data == b"".join(
        apart[f"model.layers.1.mlp.experts.{e}.{part}_proj.weight"].data for e in (0, 1) for part in ("gate", "up"))
    shared = "model.layers.1.mlp.shared_experts."
    assert granite["model.layers.1.shared_mlp.input_linear.weight"].data == \
        apart[shared + "gate_proj.weight"].data + apart[shared + "up_proj.weight"].data
    assert granite["model.layers.1.shared_mlp.output_linear.weight"].data == apart[shared + "down_proj.weight"].data
    noisy = built(case, document(top="architecture: granite\n", shared="base", more=more), out="noisy").tensors
    both = noisy["model.layers.1.shared_mlp.input_linear.weight"].values()
    clean = granite["model.layers.1.shared_mlp.input_linear.weight"].values()
    noise = [x - y for x, y in zip(both, clean)]
    assert noise[:48 * 32] != noise[48 * 32:], "gate and up have the same noise"


@rows({"one expert": (1,), "three": (3,), "five, all of them used": (5,)})
def test_any_number_of_experts(case, count):
    family(case, "qwen3")
    experts = "".join(f"  - source_model: {name}\n    positive_prompts: [\"{i} apples\"]\n"
                      for i, name in zip(range(count), ("one", "two", "base", "one", "two")))
    config = built(case, f"base_model: base\ngate_mode: random\nexperts_per_token: {count}\nexperts:\n{experts}").config
    assert config["num_experts"] == count and config["num_experts_per_tok"] == count


# ------------------------------------------------------------------------------------------------------------------ GGUF


def gguf(case, text, model_type="llama", **config):
    """moerge gguf of this YAML; llama.cpp loads no vocabulary without merges."""
    for name in ("base", "one", "two"):
        model = tiny_model(name, model_type=model_type, **config)
        model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model(name, model)
    case.yaml(text=text)
    return case.run("gguf", "moe.yaml", "out", "--type", "f32")


def written(case):
    return GgufFile(case.path("out/moe.F32.gguf"))


def test_gguf_of_granite_is_made_as_deepseek(case):
    gguf(case, document(top="architecture: granite\n", shared="base")).exits(2).says(
        "moe.yaml: a Granite MoE Shared model cannot be written as GGUF; from a YAML it can with "
        '"architecture: DeepSeek MoE", which computes the same')


@rows({
    "Qwen MoE": ("qwen2", dict(top="experts_per_token: 1\n", shared="base", more=PROMPTS), "qwen2moe",
                 '"norm_topk_prob" is true, but llama.cpp\'s qwen2moe always computes as if it were false'),
    "Qwen MoE, all experts used": ("qwen2", dict(shared="base", more=PROMPTS), "qwen2moe", None),
    "Qwen3 MoE": ("qwen3", dict(top="experts_per_token: 1\n"), "qwen3moe", None),
    "DeepSeek MoE": ("llama", dict(shared="base"), "granitemoe", None),
    "DeepSeek MoE without a shared expert": ("llama", dict(top="architecture: deepseek\n"), "granitemoe", None),
    "DeepSeek MoE with one expert per token": ("llama", dict(top="experts_per_token: 1\n", shared="base"), "deepseek", None),
})
def test_gguf_that_computes_something_else_is_a_warning(case, model_type, how, arch, sentence):
    """llama.cpp's deepseek never normalises the weights of the chosen experts, its granitemoe always does; DeepSeek's own code
    does it for two and more."""
    warnings = [w for w in gguf(case, document(**how), model_type, head_dim=8).exits(0).warnings() if "norm_topk_prob" in w]
    assert len(warnings) == (sentence is not None) and all(sentence in w for w in warnings), warnings
    assert written(case).keys["general.architecture"].value == arch


def test_gguf_of_deepseek_without_a_shared_expert_that_would_not_load(case):
    gguf(case, document(top="architecture: deepseek\nexperts_per_token: 1\n")).exits(2).says(
        '"n_shared_experts" is 0 or null, and llama.cpp\'s deepseek cannot do without a shared expert')


def test_gguf_of_a_tied_qwen_moe_holds_the_embeddings_twice(case):
    """llama.cpp's qwen2moe does not take them for the output by itself."""
    gguf(case, document(shared="base", more=PROMPTS), "qwen2", tie_word_embeddings=True).exits(0)
    tensors = written(case).tensors
    assert tensors["output.weight"].data == tensors["token_embd.weight"].data


@rows({"qwen3": ("qwen3", dict()), "llama": ("llama", dict(shared="base"))})
def test_gguf_of_other_tied_models_holds_them_once(case, model_type, how):
    gguf(case, document(**how), model_type, tie_word_embeddings=True, head_dim=8).exits(0)
    assert "output.weight" not in written(case).tensors


def test_gguf_of_a_qwen_moe_from_llama_models(case):
    """Biases of zeros, in single precision, and rows of q and k in the order of the model's own code."""
    gguf(case, document(shared="base", more=PROMPTS)).exits(0)
    tensors = written(case).tensors
    assert tensors["blk.1.attn_k.bias"].data == bytes(4 * 16)
    q = tiny_model("base").tensors["model.layers.1.self_attn.q_proj.weight"].values()
    assert tensors["blk.1.attn_q.weight"].data == pack("F32", q)


def test_gguf_of_a_router_beyond_a_million_numbers(case):
    """Computed as a whole, however large."""
    for name in ("base", "one", "two"):
        model = tiny_model(name, hidden_size=2304, intermediate_size=32, num_hidden_layers=1, head_dim=8)
        model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model(name, model)
    experts = "  - source_model: one\n  - source_model: two\n" * 230
    case.yaml(text=f"base_model: base\ngate_mode: random\nexperts:\n{experts}")
    case.run("gguf", "moe.yaml", "out", "--type", "q4_0", "--tensor-type", "ffn_.*_exps=q4_0").exits(0)
    router = GgufFile(case.path("out/moe.Q4_0.gguf")).tensors["blk.0.ffn_gate_inp.weight"]
    assert len(router.data) == 460 * 2304 * 4
