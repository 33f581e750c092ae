"""Gate modes ridge and router_input from the command line: every family, what is said of the routers, and what is refused.
What the rows are: tests/golden/check_routers.py and moerge/moe/gates/*_test.cpp."""
import json, math, random, signal, subprocess, sys, time
from pathlib import Path

from fault_case import is_sanitized
from harness import Skipped, rows
from tiny_mixtures import tiny_dense, tiny_mixture
from tiny_models import tensor, tiny_model, tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gguf"))
from reader import File as GgufFile


def text(words, count):
    draw = random.Random(words)
    return "".join(" ".join(draw.choice(words.split()) for _ in range(8)) + "\n" for _ in range(count))


def texts(case, code=30, prose=30):
    case.write("a.txt", text("def return x y + = ( ) if for in range 0 1", code))
    case.write("b.txt", text("the a night was dark and stormy old sailor house of", prose))


def yaml(case, mode, one="data: a.txt", two="data: b.txt", top="", shared=""):
    experts = "".join(f"  - source_model: {name}\n    {line}\n" for name, line in {"one": one, "two": two}.items())
    if shared:
        shared = f"shared_experts:\n  - source_model: base\n{shared}"
    return case.yaml(text=f"base_model: base\ngate_mode: {mode}\n{top}experts:\n{experts}{shared}")


def router_rows(tensors):
    """[(tensor, its rows)], one entry a router."""
    found = []
    for name, t in sorted(tensors.items()):
        if name.endswith((".gate.weight", ".router.layer.weight", "shared_expert_gate.weight")):
            values = t.values()
            found.append((name, [values[at:at + t.shape[1]] for at in range(0, len(values), t.shape[1])]))
    return found


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def lowest_cosine(one, other):
    ours, theirs = router_rows(one), router_rows(other)
    assert [(name, len(r)) for name, r in ours] == [(name, len(r)) for name, r in theirs] and ours
    return min(cosine(a, b) for (_, r), (_, s) in zip(ours, theirs) for a, b in zip(r, s))


def forecast(result):
    """The three lines."""
    lines = result.stderr.splitlines()
    at = [i for i, line in enumerate(lines) if line.startswith("routing forecast, over ")]
    if len(at) != 1:
        result.fail("expected one forecast")
    return lines[at[0]:at[0] + 3]


# -------------------------------------------------------------------------------------------------------------- families

PROMPTS = '    positive_prompts: ["in general we say so"]\n'
FAMILIES = {
    "Mixtral": ("llama", "", "", "MixtralForCausalLM"),
    "Mixtral of Mistral": ("mistral", "", "", "MixtralForCausalLM"),
    "Qwen2 MoE, shared expert": ("qwen2", "", PROMPTS, "Qwen2MoeForCausalLM"),
    "Qwen2 MoE of Llama, shared expert": ("llama", "", PROMPTS, "Qwen2MoeForCausalLM"),
    "Qwen3 MoE": ("qwen3", "", "", "Qwen3MoeForCausalLM"),
    "DeepSeek MoE": ("llama", "architecture: deepseek\n", "", "DeepseekForCausalLM"),
    "DeepSeek MoE, shared expert": ("llama", "", "    residual_scale: 0.5\n", "DeepseekForCausalLM"),
    "Granite MoE, shared expert": ("llama", "architecture: granite\n", "    residual_scale: 0.5\n", "GraniteMoeSharedForCausalLM"),
}
NOT_RUN = "Granite MoE, shared expert, ridge"  # test_granite


@rows({row: (mode, *FAMILIES[name]) for name in FAMILIES for mode in ("ridge", "router_input")
       if (row := f"{name}, {mode}") != NOT_RUN})
def test_family(case, mode, model_type, top, shared, class_name):
    case.models("base", "one", "two", model_type=model_type)
    texts(case)
    yaml(case, mode, top=top, shared=shared)
    first = case.built("-j", 1, "--verify", out="j1/out")
    second = case.built("-j", 3, "--verify", out="j3/out")
    assert first.config["architectures"] == [class_name]
    assert first.content() == second.content()
    routers = router_rows(first.tensors)
    assert len(routers) == (4 if class_name.startswith("Qwen2") else 2), [name for name, _ in routers]
    for name, found in routers:
        assert len(found) == (1 if "shared_expert" in name else 2), name
        assert all(math.isfinite(x) for row in found for x in row) and all(any(row) for row in found), name
        if len(found) == 2:  # the rows of two experts lie opposite each other, and decide
            assert cosine(*found) < -0.99, (name, cosine(*found))
    lines = forecast(first.result)
    assert "places go to one " in lines[0] and ", two " in lines[0], lines
    assert lines[1].startswith("  the first choice is the expert that was meant for "), lines
    right = int(lines[1].split(" meant for ")[1].split(" %")[0])
    assert right > 85 and "(50 % would be chance)" in lines[1], lines
    assert lines[2] == "  no expert is idle, and none takes more than its share", lines


@rows({"ridge": ("ridge",), "router_input": ("router_input",)})
def test_layouts_have_the_same_rows(case, mode):
    texts(case)
    yaml(case, mode)
    one, other = case.built(out="one-each").tensors, case.built("--layout", "fused", out="fused").tensors
    values = lambda tensors: [found for _, found in router_rows(tensors)]
    assert values(one) == values(other) and len(values(one)) == 2


@rows({"ridge": ("ridge",), "router_input": ("router_input",)})
def test_dtypes(case, mode):
    """The routers are made for the weights as they will be written, and rounded once."""
    texts(case)
    found = {}
    for dtype in ("float32", "bfloat16", "float16"):
        yaml(case, mode, top=f"dtype: {dtype}\n")
        found[dtype] = case.built(out=dtype).tensors
    for dtype in ("bfloat16", "float16"):
        assert lowest_cosine(found["float32"], found[dtype]) > 0.9999, dtype


@rows({f"{mode}, {flag}": (mode, flag, least) for mode in ("ridge", "router_input")
       for flag, least in {"--load-in-8bit": 0.999, "--load-in-4bit": 0.9}.items()})
def test_quantised_passes(case, mode, flag, least):
    texts(case)
    yaml(case, mode)
    exact, found = case.built(out="exact").tensors, case.built(flag).tensors
    assert exact.keys() == found.keys()
    routers = [name for name, _ in router_rows(exact)]
    assert all(exact[name] == found[name] for name in exact if name not in routers)
    assert any(exact[name] != found[name] for name in routers)
    assert lowest_cosine(exact, found) > least, lowest_cosine(exact, found)


# ------------------------------------------------------------------------------------------------------- what is said


def test_auto(case):
    texts(case)
    yaml(case, "ridge")
    ridge = case.built(out="ridge").tensors
    yaml(case, "auto")
    out = case.built()
    out.result.says("gate_mode ridge: ", "chosen by auto: every expert has data")
    assert out.tensors == ridge
    yaml(case, "auto", two='positive_prompts: ["it was a dark night"]')
    case.built(out="some").result.says("gate_mode router_input: ", "chosen by auto: ")


def test_json(case):
    texts(case)
    yaml(case, "auto")
    result = case.built("--json").result
    plan = json.loads(result.stdout)
    assert plan["gate_mode"] == "ridge" and plan["gate_mode_reason"] == "every expert has data", plan
    assert plan["data"]["sequences"] == 5 and sum(plan["data"]["tokens_of_experts"]) == plan["data"]["tokens"] > 1000, plan["data"]
    assert plan["warnings"] == []
    assert len(forecast(result)) == 3  # it is for people: on stderr


@rows({"random": ("random", 0), "uniform_random": ("uniform_random", 0), "cheap_embed": ("cheap_embed", 0), "hidden": ("hidden", 1),
       "hidden_avg": ("hidden_avg", 1), "router_input": ("router_input", 1)})
def test_modes_that_foretell(case, mode, count):
    case.yaml(mode)
    assert case.built().result.stderr.count("routing forecast, over ") == count


def test_quiet_foretells_nothing(case):
    texts(case)
    yaml(case, "ridge")
    assert case.built("--quiet").result.stderr == ""


def test_few_tokens_say_little(case):
    case.yaml("router_input")
    lines = forecast(case.built().result)
    assert " tokens of the experts' own texts: " in lines[0], lines
    assert lines[2] == "  so few tokens say little: moerge route shows where other texts go", lines


def test_held_out(case):
    texts(case)
    line = lambda name, count: "".join(json.dumps({"text": text(f"{name} {i} of", 3)}) + "\n" for i in range(count))
    case.write("a.jsonl", line("code", 20))
    case.write("b.jsonl", line("prose", 16))
    yaml(case, "ridge", "data: a.jsonl", "data: b.jsonl")
    assert " tokens of data that the routers were not fitted to: " in forecast(case.built().result)[0]
    case.write("b.jsonl", line("prose", 7))
    assert " tokens of the experts' own texts: " in forecast(case.built(out="out2").result)[0]


def test_one_expert(case):
    texts(case)
    case.yaml(text="base_model: base\ngate_mode: ridge\nexperts_per_token: 1\nexperts: [{source_model: one, data: a.txt}]\n")
    assert all(value == 0 for _, found in router_rows(case.built().tensors) for value in found[0])


# ------------------------------------------------------------------------------------------------ warnings and refusals


def test_negative_prompts(case):
    texts(case)
    yaml(case, "ridge")
    plain = case.built(out="plain").tensors
    yaml(case, "ridge", one='data: a.txt\n    negative_prompts: ["something else"]')
    found = case.built(warning='gate_mode ridge makes no use of "negative_prompts": every expert is set against').tensors
    assert lowest_cosine(plain, found) > 0.9999
    yaml(case, "router_input", one='data: a.txt\n    negative_prompts: ["something else"]')
    case.built(out="router_input")


def test_uneven_text(case):
    texts(case, code=300, prose=1)
    case.write("b.txt", "it was a dark and stormy night of the year")
    for mode in ("ridge", "router_input"):
        yaml(case, mode)
        case.built(out=mode, warning="; both count the same, but so few say little about when that expert is wanted")


def test_too_few_tokens(case):
    texts(case)
    yaml(case, "ridge", two='positive_prompts: ["some story"]')
    case.refused(2, 'expert 1 ("two") has 11 tokens of text, too few to fit a router to (gate_mode "ridge"): give it "data" of 16 '
                    'tokens at least (some thousands are better), or use gate_mode "router_input"')
    yaml(case, "router_input", two='positive_prompts: ["some story"]')
    case.built()


@rows({"ridge": ("ridge",), "router_input": ("router_input",)})
def test_same_text(case, mode):
    texts(case)
    case.write("copy.txt", case.path("a.txt").read_bytes())
    yaml(case, mode, two="data: copy.txt")
    case.refused(2, "experts 0 and 1 have the same text, so the router could not tell them apart: give each its own")


@rows({"ridge": ("ridge",), "router_input": ("router_input",)})
def test_not_utf8(case, mode):
    texts(case)
    case.write("b.txt", b"fine\nna\xefve\n")
    yaml(case, mode)
    case.refused(1, "b.txt: not UTF-8 (byte 0xEF at line 2); save it as UTF-8")


def test_a_mixture_as_base(case):
    texts(case)
    case.model("base", tiny_mixture("base", "mixtral"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "mistral"))
    yaml(case, "ridge")
    case.refused(2, 'gate_mode "ridge" fits the rows of all experts together, and there is no text for the 3 experts that "base" has '
                    'already: use gate_mode "router_input"')
    yaml(case, "auto")
    out = case.built(out="auto")
    out.result.says("gate_mode router_input: ", 'every expert has data, but there is no text for the 3 experts that "base" has '
                    "already, so it is not ridge")
    yaml(case, "router_input")
    assert case.built().tensors == out.tensors
    assert "routing forecast" not in out.result.stderr
    assert [len(found) for _, found in router_rows(out.tensors)] == [5, 5]


def test_granite(case):
    """moerge writes it, and has no forward pass of its own for it."""
    texts(case)
    top = "architecture: granite\n"
    yaml(case, "ridge", top=top)
    case.refused(2, 'gate_mode "ridge" fits the rows of all experts together, and moerge cannot run Granite MoE Shared before it is '
                    'written: use gate_mode "router_input"')
    yaml(case, "auto", top=top)
    case.built().result.says("gate_mode router_input: ", "chosen by auto: every expert has data, but moerge cannot run Granite MoE "
                             "Shared before it is written, so it is not ridge")


GROWS = "holds infinite values or NaN: its weights are damaged, or its numbers grow too large\n"


@rows({
    "an expert's FFN": ("two", "layers.0.mlp.down_proj", math.nan, "", f'model "two": what the FFN of layer 0 computes {GROWS}'),
    "too large": ("one", "layers.0.mlp.gate_proj", 3e38, "", f'model "one": what the FFN of layer 0 computes {GROWS}'),
    "attention": ("base", "layers.1.self_attn.o_proj", math.nan, "", f'model "base": what the attention of layer 1 computes {GROWS}'),
    "norm": ("base", "layers.0.post_attention_layernorm", math.inf, "", f'model "base": what the attention of layer 0 computes {GROWS}'),
    "embeddings": ("base", "embed_tokens", math.nan, "", 'model "base": the embeddings of these texts hold infinite values or NaN\n'),
    "a shared expert": ("base", "layers.0.mlp.up_proj", math.nan, PROMPTS,
                        "what the FFNs of layer 0 compute holds infinite values or NaN: the weights of one of the models are damaged"),
})
def test_damaged_weights(case, name, weight, value, shared, sentence):
    texts(case)
    model = tiny_model(name)
    old = model.tensors[f"model.{weight}.weight"]
    model.tensors[f"model.{weight}.weight"] = tensor(old.dtype, old.shape, [value] * math.prod(old.shape))
    case.model(name, model)
    yaml(case, "ridge", shared=shared)
    case.refused(1, sentence)


@rows({weight: (weight, layer) for weight, layer in {"layers.0.mlp.up_proj": 0, "layers.0.self_attn.o_proj": 0,
                                                     "layers.1.self_attn.v_proj": 1}.items()})
def test_damaged_base_of_router_input(case, weight, layer):
    texts(case)
    base = tiny_model("base")
    old = base.tensors[f"model.{weight}.weight"]
    base.tensors[f"model.{weight}.weight"] = tensor(old.dtype, old.shape, [math.nan] * math.prod(old.shape))
    case.model("base", base)
    yaml(case, "router_input")
    case.refused(1, f"{case.path('base')}: what layer {layer} computes holds infinite values or NaN: its weights are damaged")


def test_norms_of_zeros(case):
    """A router that reads nothing but zeros cannot decide, and says so."""
    texts(case)
    base = tiny_model("base")
    for layer in range(2):
        base.tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = tensor("BF16", [32], [0.0] * 32)
    case.model("base", base)
    for mode in ("ridge", "router_input"):
        yaml(case, mode)
        found = case.moe(out=mode).exits(0)
        assert forecast(found)[2].startswith("  hardly better than chance: "), found.stderr


def test_interrupted_fit_begins_again(case):
    """Weights that are copied at once and stay, and a fit that takes seconds."""
    texts(case, code=600, prose=600)
    case.models("base", "one", "two", hidden_size=1024, num_attention_heads=8, num_key_value_heads=2, intermediate_size=16)
    yaml(case, "ridge")
    expected = None if is_sanitized(case) else case.built(out="undisturbed/out").content()  # minutes
    run = subprocess.Popen(case.command(["moe", "moe.yaml", "out", "-j", "1"]), cwd=case.work, env=case.variables(),
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    case.started.append(run)
    end = time.monotonic() + 60
    while not (case.partial() / "model.safetensors").exists():
        assert run.poll() is None and time.monotonic() < end, "did not begin to write"
        time.sleep(0.001)
    time.sleep(0.5)
    if run.poll() is not None:
        raise Skipped("the run was over before it could be interrupted")
    run.send_signal(signal.SIGINT)
    _, words = run.communicate(timeout=60)
    assert run.returncode == 130 and words.endswith(b"moerge: interrupted\n"), words
    assert not case.path("out").exists() and case.partial().exists()
    if expected is None:
        return
    found = case.built()
    assert "continues what an earlier run left: " in found.result.stderr, found.result.stderr
    assert found.content() == expected


# ------------------------------------------------------------------------------------------------------------------ GGUF


def test_gguf_from_the_yaml(case):
    texts(case)
    for name in ("base", "one", "two"):
        model = tiny_model(name)
        model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
        case.model(name, model)
    yaml(case, "ridge")
    types = ["--type", "f32,f16", "--name", "x"]
    case.run("gguf", "moe.yaml", "direct", *types).exits(0)
    case.built(out="x")
    case.run("gguf", "x", "long", *types).exits(0)
    for name in ("x.F32.gguf", "x.F16.gguf"):
        direct, long = case.path(f"direct/{name}"), case.path(f"long/{name}")
        assert any("ffn_gate_inp" in tensor for tensor in GgufFile(direct).tensors)
        assert direct.read_bytes() == long.read_bytes(), name
