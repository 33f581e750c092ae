"""Models that are mixtures already: as a base that grows, one of their experts as an expert, and every refusal."""
import math

from harness import rows
from tiny_gguf import U32, q8_0_values
from tiny_mixtures import (FAMILIES, dense_gguf, expert_names, mixture_gguf, router_name, stack, tiny_dense, tiny_mixture)
from tiny_models import pack, tensor

DENSE = {family: row["dense"] for family, row in FAMILIES.items()}


def grow(case, base="mix", experts=("new",), gate_mode="random", top="", file="moe.yaml"):
    items = "".join(f"  - source_model: {name}\n    positive_prompts: [\"text {i} {name}\"]\n" for i, name in enumerate(experts))
    case.yaml(text=f"base_model: {base}\ngate_mode: {gate_mode}\n{top}experts:\n{items}", file=file)
    return file


def write_mixture(case, form, family="mixtral", **how):
    """Writes it in this form; returns the reference and the tensors that it holds, one an expert and matrix."""
    model = tiny_mixture("mix", family, **how)
    tensors = dict(model.tensors)
    if form == "one by one":
        case.model("mix", model)
    elif form == "stacked":
        case.model("mix", stack(model))
    else:
        mixture_gguf(model, per_expert=form == "old GGUF").write(case.path("mix.gguf"))
    return ("mix.gguf" if "GGUF" in form else "mix"), tensors


def row_lengths(router):
    hidden, values = router.shape[1], router.values()
    return [math.sqrt(sum(x * x for x in values[at:at + hidden])) for at in range(0, len(values), hidden)]


def same_direction(a, b, tolerance=1e-3):
    length = math.sqrt(sum(x * x for x in a))
    assert all(math.isclose(x / length, y, abs_tol=tolerance) for x, y in zip(a, b)), (a, b)


# ----------------------------------------------------------------------------------------------------------- it grows


FORMS = {f"{family}, {form}": (family, form) for family in FAMILIES for form in ("one by one", "stacked", "GGUF")}


@rows({**FORMS, "mixtral, old GGUF": ("mixtral", "old GGUF")})
def test_a_mixture_keeps_what_it_has(case, family, form):
    """Old experts, old router rows, shared expert and everything else bit for bit, whatever the layout."""
    base, old = write_mixture(case, form, family)
    new = tiny_dense("new", DENSE[family])
    case.model("new", new)
    if "GGUF" in form:  # where a Mistral is called a Llama, which Mixtral takes as well
        dense_gguf(new).write(case.path("new.gguf"))
    built = case.built("--verify", config=grow(case, base, ["new.gguf" if "GGUF" in form else "new"]))
    tensors = built.tensors
    for name, t in old.items():
        if name in [router_name(family, layer) for layer in range(2)]:
            assert tensors[name].shape == [4, 32] and tensors[name].data[:len(t.data)] == t.data, name
            lengths = row_lengths(tensors[name])
            assert math.isclose(lengths[3], sum(lengths[:3]) / 3, rel_tol=0.01), lengths
        else:
            assert tensors[name].shape == t.shape and tensors[name].data == t.data, name
    dense = [f"mlp.{matrix}_proj.weight" for matrix in ("gate", "up", "down")]
    for layer in range(2):
        for ours, theirs in zip(expert_names(family, layer, 3), dense):
            assert tensors[ours] == new.tensors[f"model.layers.{layer}.{theirs}"], ours
    assert len(tensors) == len(old) + 2 * 3
    assert built.config[FAMILIES[family]["experts"]] == 4 and built.config["num_experts_per_tok"] == 2


@rows({family: (family,) for family in FAMILIES})
def test_config_changes_only_in_the_numbers(case, family):
    model = tiny_mixture("mix", family, made_by="somebody")
    case.model("mix", model)
    case.model("new", tiny_dense("new", DENSE[family]))
    built = case.built(config=grow(case, top="experts_per_token: 4\n")).config
    expected = {key: value for key, value in model.config.items() if value is not None or key in built}
    assert built == {**expected, FAMILIES[family]["experts"]: 4, "num_experts_per_tok": 4}, built


def test_number_of_experts_as_transformers_5_saves_it(case):
    model = tiny_mixture("mix", "qwen3_moe")
    model.config["num_local_experts"] = model.config.pop("num_experts")
    case.model("mix", model)
    case.model("new", tiny_dense("new", "qwen3"))
    built = case.built(config=grow(case)).config
    assert built["num_local_experts"] == 4 and "num_experts" not in built


@rows({mode: (mode,) for mode in ("random", "uniform_random", "cheap_embed")})
def test_new_rows_are_as_long_as_the_old_ones(case, mode):
    case.model("mix", tiny_mixture("mix", dtype="F32"))
    case.models("one", "two", intermediate_size=64, torch_dtype="float32")
    case.model("one", tiny_dense("one", "llama", "F32"))
    case.model("two", tiny_dense("two", "llama", "F32"))
    built = case.built(config=grow(case, experts=["one", "two"], gate_mode=mode, top="dtype: float32\n")).tensors
    for layer in range(2):
        lengths = row_lengths(built[router_name("mixtral", layer)])
        assert len(lengths) == 5
        mean = sum(lengths[:3]) / 3
        assert all(math.isclose(length, mean, rel_tol=1e-6) for length in lengths[3:]), lengths
    assert len({tuple(built[router_name("mixtral", 0)].values()[at:at + 32]) for at in (96, 128)}) == 2


def test_direction_of_a_new_row_is_the_dense_gate(case):
    """The same prompts on a dense base with the same embeddings give the same direction."""
    mix = tiny_mixture("mix", dtype="F32")
    case.model("mix", mix)
    dense = tiny_dense("dense", "mistral", "F32")
    dense.tensors["model.embed_tokens.weight"] = mix.tensors["model.embed_tokens.weight"]
    case.model("dense", dense)
    case.model("new", tiny_dense("new", "mistral", "F32"))
    top = "dtype: float32\n"
    grown = case.built(config=grow(case, gate_mode="cheap_embed", top=top)).tensors
    made = case.built(out="made", config=grow(case, "dense", gate_mode="cheap_embed",
                                              top=top + "experts_per_token: 1\n")).tensors
    same_direction(grown[router_name("mixtral", 0)].values()[96:], made[router_name("mixtral", 0)].values(), 1e-6)


@rows({mode: (mode,) for mode in ("hidden", "hidden_avg")})
def test_hidden_states_of_a_mixture(case, mode):
    """Of experts that are all one FFN: whatever the router chooses, the states are the dense model's."""
    for name in ("dense", "new"):
        case.model(name, tiny_dense(name, "llama", "F32"))
    case.yaml(text="base_model: dense\ngate_mode: random\ndtype: float32\nexperts:\n  - source_model: dense\n  - source_model: dense\n")
    case.built("--i-understand-this-is-not-useful-without-training", out="mix")
    grown = case.built(out="grown", config=grow(case, gate_mode=mode, top="dtype: float32\n")).tensors
    made = case.built(out="made", config=grow(case, "dense", gate_mode=mode,
                                              top="dtype: float32\nexperts_per_token: 1\n")).tensors
    for layer in range(2):
        same_direction(grown[router_name("mixtral", layer)].values()[64:], made[router_name("mixtral", layer)].values())


@rows({f"{family}, {form}": (family, form) for family in FAMILIES for form in ("one by one", "stacked", "GGUF")})
def test_hidden_gates_in_every_form(case, family, form):
    base, _ = write_mixture(case, form, family, dtype="F32")
    case.model("new", tiny_dense("new", DENSE[family], "F32"))
    built = case.built(config=grow(case, base, gate_mode="hidden", top="dtype: float32\n")).tensors
    new = [built[router_name(family, layer)].values()[96:] for layer in range(2)]
    assert new[0] != new[1]
    for layer in range(2):
        lengths = row_lengths(built[router_name(family, layer)])
        assert math.isclose(lengths[3], sum(lengths[:3]) / 3, rel_tol=1e-5), lengths


def test_hidden_states_of_one_expert(case):
    """A base that is one expert of a mixture, and the same model extracted."""
    case.model("mix", tiny_mixture("mix"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "mistral"))
    case.run("extract", "mix", "dense", "--expert", "1").exits(0)
    view = case.built(out="view", config=grow(case, "mix#expert=1", ["one", "two"], "hidden")).tensors
    assert view == case.built(config=grow(case, "dense", ["one", "two"], "hidden")).tensors


def test_fused_layout_of_a_grown_mixture(case):
    case.model("mix", stack(tiny_mixture("mix")))
    case.model("new", tiny_dense("new", "mistral"))
    plain = case.built(config=grow(case)).tensors
    fused = case.built("--layout", "fused", "--verify", out="fused").tensors
    for layer in range(2):
        gate, up, down = zip(*(expert_names("mixtral", layer, e) for e in range(4)))
        prefix = f"model.layers.{layer}.mlp.experts."
        assert fused[prefix + "gate_up_proj"].data == b"".join(plain[g].data + plain[u].data for g, u in zip(gate, up))
        assert fused[prefix + "down_proj"].data == b"".join(plain[d].data for d in down)
        assert fused[f"model.layers.{layer}.mlp.gate.weight"] == plain[router_name("mixtral", layer)]


def test_growing_twice_is_growing_once(case):
    case.model("mix", tiny_mixture("mix"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "mistral"))
    case.built(out="step", config=grow(case, experts=["one"]))
    twice = case.built(out="twice", config=grow(case, "step", ["two"])).tensors
    once = case.built(out="once", config=grow(case, experts=["one", "two"])).tensors
    routers = [router_name("mixtral", layer) for layer in range(2)]
    assert twice.keys() == once.keys()
    assert not [name for name in once if name not in routers and once[name] != twice[name]]


def test_quantised_gguf_as_base(case):
    mix = tiny_mixture("mix")
    gguf = mixture_gguf(mix, "q8_0")
    gguf.write(case.path("mix.gguf"))
    case.model("new", tiny_dense("new", "mistral"))
    built = case.built("--verify", config=grow(case, "mix.gguf"))
    assert built.config["torch_dtype"] == "float16" and built.config["num_local_experts"] == 4
    values = q8_0_values(gguf.tensors["blk.1.ffn_down_exps.weight"][2])
    size = len(values) // 3
    for e in range(3):
        assert built.tensors[expert_names("mixtral", 1, e)[2]].data == pack("F16", values[e * size:(e + 1) * size]), e


def test_words_about_a_grown_mixture(case):
    case.model("mix", tiny_mixture("mix"))
    case.model("new", tiny_dense("new", "mistral"))
    grow(case)
    plan = case.plan()
    assert plan["kept_experts"] == 3 and [e["source_model"] for e in plan["experts"]] == ["new"]
    assert plan["parameters"]["total"] - plan["parameters"]["active"] == 2 * 2 * 3 * 64 * 32  # two of four idle, two layers
    case.moe("--dry-run", "-v").exits(0).prints(
        "Mixtral: 2 layers, 3 experts of mix + 1, 2 per token", "base      mix: attention, norms, embeddings, 3 experts",
        "expert 3  new: FFN of every layer", "mix: model.layers.0.block_sparse_moe.gate.weight + router, gate_mode random")
    card = case.built().read("README.md").decode()
    assert "A Mixtral mixture of 4 experts" in card and "`mix` with its 3 experts, as they were" in card
    assert "\n3. `new` (1 prompt)" in card, card


def test_new_experts_with_one_direction(case):
    """Numbered as in the result."""
    case.model("mix", tiny_mixture("mix"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "mistral"))
    case.yaml(text="base_model: mix\ngate_mode: cheap_embed\nexperts:\n"
                   "  - {source_model: one, positive_prompts: [abc]}\n  - {source_model: two, positive_prompts: [abc, abc]}\n")
    case.built(warning='the router rows of experts 3 ("one") and 4 ("two") nearly coincide in every layer')


@rows({"said nothing": ("", 2), "fewer": ("experts_per_token: 1\n", 1), "all": ("experts_per_token: 4\n", 4)})
def test_experts_per_token(case, top, count):
    case.model("mix", tiny_mixture("mix"))
    case.model("new", tiny_dense("new", "mistral"))
    assert case.built(config=grow(case, top=top)).config["num_experts_per_tok"] == count


def test_noise_changes_new_experts_only(case):
    case.model("mix", tiny_mixture("mix"))
    case.model("new", tiny_dense("new", "mistral"))
    plain = case.built(config=grow(case)).tensors
    case.yaml(text="base_model: mix\ngate_mode: random\nexperts:\n  - {source_model: new, noise_scale: 0.1, residual_scale: 0.5}\n")
    noisy = case.built(out="noisy").tensors
    assert {n for n in plain if plain[n] != noisy[n]} == {n for layer in range(2) for n in expert_names("mixtral", layer, 3)}


# -------------------------------------------------------------------------------------------------- one of its experts


@rows({f"{family}, {form}": (family, form) for family in FAMILIES for form in ("one by one", "stacked", "GGUF")})
def test_expert_of_another_mixture(case, family, form):
    source, tensors = write_mixture(case, form, family)
    case.model("base", tiny_mixture("base", family))
    built = case.built("--verify", config=grow(case, "base", [f"{source}#expert=2"])).tensors
    for layer in range(2):
        for ours, theirs in zip(expert_names(family, layer, 3), expert_names(family, layer, 2)):
            assert built[ours] == tensors[theirs], ours


@rows({"llama": ("llama",), "mistral": ("mistral",)})
def test_mixtral_expert_on_a_dense_base(case, family):
    """It is a Llama's FFN as well as a Mistral's: no --allow-crimes."""
    mix = case.model("mix", tiny_mixture("mix"))
    case.model("base", tiny_dense("base", family))
    built = case.built(config=grow(case, "base", ["mix#expert=0", "mix#expert=2"]))
    assert built.config["model_type"] == "mixtral" and built.config["num_local_experts"] == 2
    for theirs, ours in ((0, 0), (2, 1)):
        for a, b in zip(expert_names("mixtral", 1, ours), expert_names("mixtral", 1, theirs)):
            assert built.tensors[a] == mix.tensors[b]


def test_expert_as_base(case):
    """The mixture's attention, with other experts."""
    mix = case.model("mix", tiny_mixture("mix"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "llama"))
    built = case.built(config=grow(case, "mix#expert=1", ["mix#expert=1", "one"])).tensors
    name = "model.layers.1.self_attn.q_proj.weight"
    assert built[name] == mix.tensors[name]
    assert built[expert_names("mixtral", 0, 0)[0]] == mix.tensors[expert_names("mixtral", 0, 1)[0]]
    assert not [n for n in built if "shared" in n]


def test_hub_name_with_an_expert(case):
    snapshot = case.folder / ".cache/huggingface/hub/models--org--mix/snapshots/abc"
    tiny_mixture("mix").write(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/v1").write_text("abc")
    case.model("base", tiny_dense("base", "llama"))
    built = case.built(config=grow(case, "base", ["org/mix@v1#expert=0", "org/mix@abc#expert=1"]))
    assert "[`org/mix@v1#expert=0`](https://huggingface.co/org/mix)" in built.read("README.md").decode()


def test_folder_with_a_number_sign_comes_first(case):
    case.model("mix#expert=0", tiny_dense("other", "llama"))
    case.model("mix", tiny_mixture("mix"))
    case.model("base", tiny_dense("base", "llama"))
    built = case.built(config=grow(case, "base", ["mix#expert=0", "mix#expert=1"])).tensors
    assert built[expert_names("mixtral", 0, 0)[0]] == tiny_dense("other", "llama").tensors["model.layers.0.mlp.gate_proj.weight"]


def test_shared_expert(case):
    model = case.model("mix", tiny_mixture("mix", "deepseek", expert_ffn=32))  # two of them, side by side: 64 wide
    case.model("base", tiny_dense("base", "llama"))
    built = case.built(config=grow(case, "base", ["mix#shared_expert", "base"])).tensors
    assert built[expert_names("mixtral", 0, 0)[0]] == model.tensors["model.layers.0.mlp.shared_experts.gate_proj.weight"]


# ------------------------------------------------------------------------------------------------------------ refusals


@rows({
    "dense": ("base#expert=0", "is a dense llama model and has no experts to choose from"),
    "beyond": ("mix#expert=3", 'model "mix#expert=3": there is no expert 3: the model has 3 experts, #expert=0 to #expert=2'),
    "far beyond": ("mix#expert=9223372036854775807", "there is no expert 9223372036854775807"),
    "too large": ("mix#expert=9223372036854775808", 'did you mean "mix#expert=0"?'),
    "negative": ("mix#expert=-1", 'did you mean "mix#expert=0"?'),
    "no number": ("mix#expert", '"#expert" says no part of a model; did you mean "mix#expert=0"? (experts are numbered from 0)'),
    "misspelt": ("mix#exprt=2", 'did you mean "mix#expert=2"?'),
    "only a number": ("mix#2", '"#2" says no part of a model'),
    "empty": ("mix#", '"#" says no part of a model'),
    "two": ("mix#expert=1#expert=2", 'model "mix#expert=1": no such folder'),
    "shared misspelt": ("mix#shared_exprt", 'did you mean "mix#shared_expert"?'),
    "no shared": ("mix#shared_expert", "this mixtral model has no shared expert"),
    "nowhere": ("nosuch#expert=1", 'model "nosuch": no such folder'),
    "whole": ("mix", '"mix" is a mixture of 3 experts itself; an expert is one of them: write "mix#expert=0" (or another, to 2)'),
})
def test_references_that_mean_nothing(case, reference, sentence):
    case.model("mix", tiny_mixture("mix"))
    case.models("base", "one", intermediate_size=64)
    case.yaml(text=f"base_model: base\ngate_mode: random\nexperts:\n  - source_model: \"{reference}\"\n  - source_model: one\n")
    case.refused(2, sentence)


@rows({
    "width": (dict(intermediate_size=96), 2, 'intermediate_size differs: expert "new" has 96, the base "mix" has 64'),
    "layers": (dict(num_hidden_layers=3), 2, "num_hidden_layers differs"),
    "family": (dict(model_type="llama"), 2, '"new" is a llama model, and the experts of "mix", a qwen2_moe model, are FFNs of qwen2 '
                                            'models; pass --allow-crimes to combine them all the same'),
})
def test_experts_that_do_not_fit(case, changes, code, sentence):
    case.model("mix", tiny_mixture("mix", "qwen2_moe"))
    case.model("new", tiny_dense("new", "qwen2", **{k: v for k, v in changes.items() if k != "model_type"}))
    if "model_type" in changes:
        case.model("new", tiny_dense("new", changes["model_type"]))
    grow(case)
    case.refused(code, sentence)


def test_another_family_by_force(case):
    case.model("mix", tiny_mixture("mix", "qwen2_moe"))
    new = case.model("new", tiny_dense("new", "llama"))
    built = case.built("--allow-crimes", config=grow(case)).tensors
    assert built[expert_names("qwen2_moe", 0, 3)[0]] == new.tensors["model.layers.0.mlp.gate_proj.weight"]


@rows({
    "shared experts": ("shared_experts:\n  - source_model: new\n", "qwen2_moe",
                       '"shared_experts" cannot be added to "mix", a mixture that has a shared expert already'),
    "shared experts of Mixtral": ("shared_experts:\n  - source_model: new\n", "mixtral",
                                  '"shared_experts" cannot be added to "mix", a mixture that was made without shared experts'),
    "another output": ("architecture: qwen\n", "mixtral", 'moe.yaml:3:15: architecture "qwen" is wanted, and the base "mix" is a '
                                                          'mixture of the family Mixtral'),
    "too many per token": ("experts_per_token: 5\n", "mixtral",
                           'moe.yaml:3:20: "experts_per_token" is 5, but there are 4 experts (the base\'s 3 included): name more '
                           'experts, or write "experts_per_token: 4"'),
})
def test_yaml_that_does_not_fit_a_mixture(case, top, family, sentence):
    case.model("mix", tiny_mixture("mix", family))
    case.model("new", tiny_dense("new", DENSE[family]))
    grow(case, top=top)
    case.refused(2, sentence)


def test_same_prompts_are_still_refused(case):
    case.model("mix", tiny_mixture("mix"))
    case.yaml(text="base_model: mix\ngate_mode: cheap_embed\nexperts:\n"
                   "  - {source_model: one, positive_prompts: [x]}\n  - {source_model: two, positive_prompts: [x]}\n")
    case.refused(2, "all experts have the same prompts")


STACK = "model.layers.1.mlp.experts.gate_up_proj"


def shorten(t):
    return tensor(t.dtype, [t.shape[0] - 1, *t.shape[1:]], t.values()[:len(t.values()) // 3 * 2])


@rows({
    "one expert less": (lambda m: m.tensors.update({STACK: shorten(m.tensors[STACK])}),
                        f'mix: tensor "{STACK}" is [2, 128, 32], config.json says [3, 128, 32] (experts, rows, columns)'),
    "other order": (lambda m: m.tensors.update({STACK: tensor("BF16", [3, 32, 128], m.tensors[STACK].values())}),
                    f'tensor "{STACK}" is [3, 32, 128], config.json says [3, 128, 32]'),
    "flat": (lambda m: m.tensors.update({STACK: tensor("BF16", [3 * 128 * 32], m.tensors[STACK].values())}),
             f'tensor "{STACK}" is [12288], config.json says [3, 128, 32]'),
    "missing": (lambda m: m.tensors.pop(STACK), 'tensor "model.layers.1.block_sparse_moe.experts.0.w1.weight" [64, 32] is missing'),
    "both layouts": (lambda m: m.tensors.update({expert_names("mixtral", 1, 2)[1]: tensor("BF16", [1], [0.0])}),
                     f'expert 2 of layer 1 is there twice, in "{STACK}" and in "{expert_names("mixtral", 1, 2)[1]}"'),
    "no router": (lambda m: m.tensors.pop("model.layers.0.mlp.gate.weight"),
                  'tensor "model.layers.0.block_sparse_moe.gate.weight" [3, 32] is missing'),
})
def test_damaged_stacks(case, damage, sentence):
    model = stack(tiny_mixture("mix"))
    damage(model)
    case.model("mix", model)
    case.model("new", tiny_dense("new", "mistral"))
    grow(case)
    case.refused(1, sentence)


def change_gguf(**metadata):
    return lambda gguf: gguf.metadata.update({key.replace("__", "."): value for key, value in metadata.items()})


def shape_of_stack(gguf):
    gguf.tensors["blk.0.ffn_up_exps.weight"][1] = [3, 32, 64]


@rows({
    "dense layers first": ("deepseek", change_gguf(deepseek__leading_dense_block_count=(U32, 1)), 2,
                           '"deepseek.leading_dense_block_count" is 1: a mixture with dense layers in between is not supported'),
    "groups": ("mixtral", change_gguf(llama__expert_group_count=(U32, 8)), 2, "experts in groups are not supported"),
    "sigmoid": ("qwen3_moe", change_gguf(qwen3moe__expert_gating_func=(U32, 2)), 2, "only a softmax over the experts (1)"),
    "no experts": ("qwen2_moe", change_gguf(qwen2moe__expert_count=(U32, 0)), 2, "this family has only mixtures"),
    "another number": ("mixtral", change_gguf(llama__expert_count=(U32, 4)), 1,
                       'tensor "blk.0.ffn_gate_exps.weight" is [3, 64, 32], its metadata says [4, 64, 32]'),
    "a great number": ("mixtral", change_gguf(llama__expert_count=(U32, 4294967295)), 1, '"llama.expert_count" is 4294967295'),
    "great numbers": ("mixtral", change_gguf(llama__expert_count=(U32, 4097)), 1, '"num_local_experts" is 4097'),
    "none per token": ("mixtral", change_gguf(llama__expert_used_count=(U32, 0)), 1, '"llama.expert_used_count" is 0'),
    "not said": ("mixtral", lambda gguf: gguf.metadata.pop("llama.expert_used_count"), 1, 'lacks "llama.expert_used_count"'),
    "shape": ("mixtral", shape_of_stack, 1, 'tensor "blk.0.ffn_up_exps.weight" is [3, 32, 64], its metadata says [3, 64, 32]'),
    "stack missing": ("mixtral", lambda gguf: gguf.tensors.pop("blk.1.ffn_down_exps.weight"), 1, "w2.weight\" [32, 64] is missing"),
})
def test_gguf_mixtures_that_are_refused(case, family, change, code, sentence):
    gguf = mixture_gguf(tiny_mixture("mix", family))
    change(gguf)
    gguf.write(case.path("mix.gguf"))
    case.model("new", tiny_dense("new", DENSE[family]))
    grow(case, "mix.gguf")
    case.refused(code, "mix.gguf: ", sentence)


def test_infinite_router(case):
    model = tiny_mixture("mix")
    values = model.tensors[router_name("mixtral", 1)].values()
    model.tensors[router_name("mixtral", 1)] = tensor("BF16", [3, 32], [math.inf, *values[1:]])
    case.model("mix", model)
    case.model("new", tiny_dense("new", "mistral"))
    grow(case)
    case.refused(1, f'the router "{router_name("mixtral", 1)}" holds infinite values or NaN')


# ------------------------------------------------------------------------------------- Qwen's dense models from GGUF files


@rows({f"{family}, {kind}{', tied' if tied else ''}": (family, kind, tied)
       for family in ("qwen2", "qwen3") for kind in ("bf16", "f16", "f32") for tied in (False, True)})
def test_dense_qwen_gguf_is_its_folder(case, family, kind, tied):
    """Biases, norms of heads, head_dim that is not the class's default, embeddings that serve as output: as experts of a
    mixture of the family, and as extracted from it."""
    mixture = f"{family}_moe"
    case.model("mix", tiny_mixture("mix", mixture))
    new = tiny_dense("new", family, tie_word_embeddings=tied)
    case.model("new", new)
    dense_gguf(new, kind).write(case.path("new.gguf"))
    from_file = case.built("--verify", config=grow(case, experts=["new.gguf"])).tensors
    from_folder = case.built(out="folders", config=grow(case)).tensors
    assert from_file == from_folder
