"""data, max_tokens and gate_mode auto in the YAML: which text is read, what is said about it, and what is refused."""
import json, os

from harness import Output, rows
from tiny_models import tiny_model

TEMPLATE = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"


def chat(*pairs):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]}) + "\n"


def yaml(case, one="data: a.txt", two="data: b.txt", gate_mode="ridge", top=""):
    """The usual two experts, each with these lines."""
    lines = "".join(f"  - source_model: {name}\n" + "".join(f"    {line}\n" for line in text.split("\n") if line)
                    for name, text in {"one": one, "two": two}.items())
    return case.yaml(text=f"base_model: base\ngate_mode: {gate_mode}\n{top}experts:\n{lines}")


def texts(case):
    case.write("a.txt", "def f(x):\n    return x\n" * 40)
    case.write("b.txt", "It was a dark and stormy night. " * 30)


def test_text_becomes_tokens(case):
    texts(case)
    yaml(case, two='data: b.txt\npositive_prompts: ["prove that"]')
    plan = case.plan()
    # A byte is a token here; a sequence of 512 has one more in front, and so has each that follows.
    assert plan["data"] == {"sequences": 4, "tokens": 920 + 2 + 960 + 2, "tokens_of_experts": [922, 962]}, plan["data"]
    assert plan["prompts"] == {"count": 1, "tokens": 11}
    assert plan["gate_mode"] == "ridge" and plan["gate_mode_reason"] is None and plan["warnings"] == []
    case.moe("--dry-run").exits(0).prints(", 922 tokens of text\n", ", 1 prompt, 962 tokens of text\n",
                                          "(1 prompts, 11 tokens; 4 sequences of data, 1884 tokens)")


def test_max_tokens(case):
    texts(case)
    yaml(case, one="data: a.txt\nmax_tokens: 100", top="max_tokens: 500\n")
    assert case.plan()["data"]["tokens_of_experts"] == [100, 500]


def test_the_seed_moves_the_sample(case):
    case.write("a.txt", "".join(f"{i} lines of code\n" for i in range(5000)))
    case.write("b.txt", "".join(f"{i} lines of prose\n" for i in range(5000)))
    yaml(case, gate_mode="hidden_avg", top="max_tokens: 600\n")
    first, again, other = (Output(case.path(out), case.moe(*flags, out=out).exits(0)).tensors for out, flags in
                           {"first": (), "again": (), "other": ("--random-seed", "1")}.items())
    router = "model.layers.0.block_sparse_moe.gate.weight"
    assert first == again and first[router] != other[router]


def test_relative_to_the_yaml(case):
    case.write("more/text/a.jsonl", '{"text": "some code is here"}\n')
    case.write("more/b/b.txt", "some prose is here as well")
    case.yaml(text="base_model: ../base\ngate_mode: ridge\nexperts:\n  - {source_model: ../one, data: [text/a.jsonl]}\n"
                   "  - {source_model: ../two, data: b}\n", file="more/moe.yaml")
    case.fill_in()
    assert case.plan(config="more/moe.yaml")["data"]["tokens_of_experts"] == [18, 27]


def test_older_modes_take_it_as_prompts(case):
    texts(case)
    yaml(case, gate_mode="hidden")
    out = case.built(warning="gate_mode hidden looks at the last token alone of each of the 4 sequences of data")
    assert "router" not in out.config
    yaml(case, gate_mode="cheap_embed")
    case.built(warning="gate_mode cheap_embed takes the data as further prompts; gate_mode ridge or router_input", out="out2")
    yaml(case, gate_mode="random", one="data: nowhere.txt")
    case.built(out="out3")


@rows({
    "data for all": ("data: a.txt", "data: b.txt", "ridge", "every expert has data"),
    "data for some": ("data: a.txt", "positive_prompts: [maths]", "router_input", "1 of 2 experts has data"),
    "sentences": ('positive_prompts: ["write a function that"]', 'positive_prompts: ["what is two plus two"]', "router_input",
                  "sentences"),
    "words": ("positive_prompts: [code]", "positive_prompts: [maths]", "hidden", "single words"),
})
def test_auto(case, one, two, mode, reason):
    texts(case)
    yaml(case, one, two, gate_mode="auto")
    plan = case.plan()
    assert plan["gate_mode"] == mode and reason in plan["gate_mode_reason"], plan["gate_mode_reason"]
    case.moe("--dry-run").exits(0).prints(f"routers   gate_mode {mode}: ", "chosen by auto: ", reason)


def test_the_card_has_file_names_only(case):
    texts(case)
    yaml(case, one=f"data: {case.path('a.txt')}", two="data: ./b.txt", gate_mode="hidden_avg")
    out = case.built(warning="further prompts")
    card = out.read("README.md").decode()
    assert str(case.path("a.txt")) not in card and "data: a.txt" in card and "data: b.txt" in card, card
    assert "(text of `a.txt`)\n" in card and "(text of `b.txt`)\n" in card, card
    assert out.read("mergekit_moe_config.yml") == case.path("moe.yaml").read_bytes()


@rows({
    "missing": (2, "a.txt: b.tx", "moe.yaml:7:11: there is no b.tx (did you mean \"b.txt\"?)"),
    "another kind": (2, "two/config.json", "two/config.json is none: write it as .jsonl"),
    "a folder of models": (2, "two", "there is no .txt or .jsonl file in two; it holds .json, .safetensors"),
    "a device": (2, "/dev/zero", "/dev/zero is neither a file nor a folder"),
    "the same text": (2, "a.txt", "experts have the same prompts and data"),
    "the same text in another file": (2, "copy.txt", "experts 0 and 1 have the same text, so the router could not tell them apart"),
    "too little": (2, "short.txt", 'expert 1 ("two") has 6 tokens of text, too few to fit a router to (gate_mode "ridge")'),
    "empty": (1, "empty.txt", 'expert 1 ("two"): empty.txt holds no text'),
    "not UTF-8": (1, "latin1.txt", "latin1.txt: not UTF-8 (byte 0xE9 at line 2); save it as UTF-8"),
    "a bad row": (1, "bad.jsonl", "bad.jsonl:2: not valid JSON"),
})
def test_refused(case, code, data, sentence):
    texts(case)
    case.write("copy.txt", case.path("a.txt").read_bytes())
    case.write("short.txt", "short")
    case.write("empty.txt", "\n\n")
    case.write("latin1.txt", b"caf\nca\xe9\n")
    case.write("bad.jsonl", '{"text": "good enough"}\n{"text": \n')
    yaml(case, two=f"data: {data.split(': ')[-1]}")
    case.refused(code, sentence)


def test_a_pipe_does_not_hang(case):
    texts(case)
    os.mkfifo(case.path("pipe.txt"))
    yaml(case, two="data: pipe.txt")
    case.refused(2, "pipe.txt is neither a file nor a folder")


def test_uneven_text(case):
    texts(case)
    case.write("a.txt", "x = 1\n" * 1000)
    case.write("b.txt", "It was a dark night.")
    yaml(case)
    plan = case.plan()
    assert any("has 6008 tokens of text and expert 1 only 21" in warning for warning in plan["warnings"]), plan["warnings"]


def test_conversations_through_the_template(case):
    base = tiny_model("base")
    base.files["chat_template.jinja"] = TEMPLATE.encode()
    case.model("base", base)
    case.write("a.jsonl", chat(("user", "write code"), ("assistant", "x = 1")))
    case.write("b.jsonl", json.dumps({"conversations": [{"from": "human", "value": "tell me a long story about ships"}]}))
    yaml(case, "data: a.jsonl", "data: b.jsonl")
    plan = case.plan()
    expected = [len("[user]write code[assistant]x = 1") + 1, len("[user]tell me a long story about ships") + 1]
    assert plan["data"]["tokens_of_experts"] == expected and plan["warnings"] == [], plan["data"]
    # The output's own template comes first.
    yaml(case, "data: a.jsonl", "data: b.jsonl", top="chat_template: alpaca\n")
    assert case.plan()["data"]["tokens_of_experts"][1] > expected[1] + 50


def test_conversations_without_a_template(case):
    case.write("a.jsonl", chat(("user", "write code"), ("assistant", "x = 1")) * 3)
    case.write("b.jsonl", chat(("user", "tell me a long story about ships")))
    yaml(case, "data: a.jsonl", "data: b.jsonl")
    plan = case.plan()
    assert plan["data"]["tokens_of_experts"] == [3 * (len("user: write code\nassistant: x = 1") + 1), len("user: tell me a long story about ships") + 1]
    assert len(plan["warnings"]) == 1 and "has no chat template" in plan["warnings"][0], plan["warnings"]


@rows({
    "it refuses": ("{{ raise_exception('no system role') }}", "a.jsonl:1: this conversation: the chat template fails: "),
    "it is damaged": ("{% for m in messages %}", "it is no valid template"),
    "it never returns": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "endless recursion"),
})
def test_templates_that_fail(case, template, sentence):
    texts(case)
    base = tiny_model("base")
    base.files["chat_template.jinja"] = template.encode()
    case.model("base", base)
    case.write("a.jsonl", chat(("user", "write code")))
    yaml(case, "data: a.jsonl")
    case.refused(1, sentence)


def test_less_text_than_a_row_has_numbers(case):
    case.write("a.txt", "x = 1\n" * 20)
    case.write("b.txt", "nine apples and three pears")
    yaml(case, "data: a.txt", "data: b.txt")
    assert [w for w in case.plan()["warnings"] if "expert 1 has 28 tokens of text for router rows of 32 numbers" in w]
