"""moerge route: where routers send tokens. Numbers: routing_stats_test.cpp; sentences of the diagnosis: routing_report_test.cpp."""
import html.parser, json, math, os, pty, re, subprocess

from harness import rows
from tiny_mixtures import FAMILIES, mixture_gguf, router_name, stack, tiny_dense, tiny_mixture
from tiny_models import tensor, tiny_model

TEXT = "def f(x):\n    return x + 1\n\nThe sun went down behind the hills. 2 + 2 = 4, so 3 * 4 = 12. \u00e9\u00fc\u4e2d\n" * 3


def route(case, *words, code=0):
    case.fill_in()
    return case.run("route", *words).exits(code)


def routed(case, *words):
    return json.loads(route(case, *words, "--json").stdout)


def refused(case, code, sentence, *words):
    case.fill_in()
    before = case.snapshot()
    result = case.run("route", *words).exits(code).says("moerge: ", sentence)
    assert result.stdout == "" and case.snapshot() == before
    return result


def texts(case):
    case.write("a.txt", TEXT)
    case.write("b.jsonl", json.dumps({"text": "import os"}) + "\n\n" + json.dumps({"text": "prove that 2 + 2 = 4"}) + "\n")
    return ["--text", "0=a.txt", "--text", "1=b.jsonl", "--prompt", "hello"]


def without(report, *keys):
    return {key: value for key, value in report.items() if key not in keys}


# ------------------------------------------------------------------------------------------------ a YAML and what it makes


def qwen_moe(case):
    for name in ("base", "one", "two"):
        case.model(name, tiny_dense(name, "qwen2"))
    case.yaml(text=SHARED)


def qwen3(case):
    for name in ("base", "one", "two"):
        case.model(name, tiny_dense(name, "qwen3"))
    case.yaml("hidden")


def grown(case):
    case.model("base", tiny_mixture("mix", "qwen2_moe"))
    for name in ("one", "two"):
        case.model(name, tiny_dense(name, "qwen2"))
    case.yaml("hidden")


SHARED = """\
base_model: base
gate_mode: hidden
experts:
  - {source_model: one, positive_prompts: ["def f(x):", "import os"]}
  - {source_model: two, positive_prompts: ["2 + 2 =", "prove that"], noise_scale: 0.01, residual_scale: 0.5}
shared_experts:
  - {source_model: base, positive_prompts: ["what everybody says"]}
"""

BUILDS = {
    "Mixtral": (lambda case: case.yaml("hidden"), []),
    "Mixtral, fused": (lambda case: case.yaml("hidden"), ["--layout", "fused"]),
    "random gates": (lambda case: case.yaml(), ["--random-seed", "7"]),
    "float32 of bfloat16": (lambda case: case.yaml("cheap_embed", "dtype: float32\n"), []),
    "Qwen MoE": (qwen_moe, []),
    "Qwen3 MoE": (qwen3, []),
    "DeepSeek MoE": (lambda case: case.yaml("hidden", "architecture: deepseek\n"), []),
    "grown": (grown, []),
}


@rows(BUILDS)
def test_a_yaml_is_what_it_builds(case, prepare, flags):
    prepare(case)
    words = texts(case)
    case.fill_in()
    planned = routed(case, "moe.yaml", *words, *(flags if flags[:1] == ["--random-seed"] else []))
    case.built(*flags)
    built = routed(case, "out", *words)
    assert without(planned, "model") == without(built, "model")
    assert planned["tokens"] == len(TEXT.encode()) + len("import osprove that 2 + 2 = 4hello")
    for layer in planned["layers"]:
        assert math.isclose(sum(layer["share"]), 1, rel_tol=1e-9) and math.isclose(sum(layer["first_share"]), 1, rel_tol=1e-9)


@rows({family: (family,) for family in FAMILIES})
def test_same_numbers_in_every_layout(case, family):
    words = texts(case)
    model = tiny_mixture("mix", family)
    case.model("mix", model)
    mixture_gguf(model).write(case.path("mix.gguf"))
    case.model("stacked", stack(tiny_mixture("mix", family)))
    one, stacked, gguf = (routed(case, name, *words) for name in ("mix", "stacked", "mix.gguf"))
    assert without(one, "model") == without(stacked, "model")
    assert gguf["tokens"] == one["tokens"]
    for ours, theirs in zip(one["texts"], gguf["texts"]):
        assert math.isclose(ours["perplexity"], theirs["perplexity"], rel_tol=0.01), (ours, theirs)
    for ours, theirs in zip(one["layers"], gguf["layers"]):
        assert all(abs(x - y) < 0.02 for x, y in zip(ours["share"], theirs["share"])), (ours, theirs)


def test_nothing_is_written(case):
    words = texts(case)
    case.fill_in()
    before = case.snapshot()
    route(case, "moe.yaml", *words)
    assert case.snapshot() == before


def test_threads_change_nothing(case):
    case.yaml("hidden")
    words = texts(case)
    assert routed(case, "moe.yaml", *words, "-j", "1") == routed(case, "moe.yaml", *words, "-j", "3")


# --------------------------------------------------------------------------------------------------------------- numbers


def test_counts_are_those_of_its_tokens(case):
    """Shares, first choices, entropy and confusion once more from the logits of every token."""
    case.model("mix", tiny_mixture("mix", "mixtral", experts=4))
    report = routed(case, "mix", *texts(case), "--per-token")
    layers, k = len(report["layers"]), report["experts_per_token"]
    chosen = [[0] * 4 for _ in range(layers)]
    first = [[0] * 4 for _ in range(layers)]
    confusion = [[[0] * 4 for _ in range(4)] for _ in range(layers)]
    entropy, tokens = [0.0] * layers, 0
    for text in report["texts"]:
        for token in text["per_token"]:
            assert token["counted"] == (token["id"] != 256), token
            if not token["counted"]:
                continue
            tokens += 1
            for i, layer in enumerate(token["layers"]):
                weights = [math.exp(x - max(layer["logits"])) for x in layer["logits"]]
                shares = [w / sum(weights) for w in weights]
                order = sorted(range(4), key=lambda e: -shares[e])[:k]
                assert layer["experts"] == order
                together = sum(shares[e] for e in order)
                assert all(math.isclose(w, shares[e] / together, rel_tol=1e-5) for e, w in zip(order, layer["weights"]))
                for e in order:
                    chosen[i][e] += 1
                first[i][order[0]] += 1
                entropy[i] -= sum(p * math.log(p) for p in shares)
                if text["meant"] is not None:
                    confusion[i][text["meant"]][order[0]] += 1
    assert tokens == report["tokens"] == sum(text["tokens"] for text in report["texts"])
    for i, layer in enumerate(report["layers"]):
        assert all(math.isclose(x, y / tokens / k) for x, y in zip(layer["share"], chosen[i]))
        assert all(math.isclose(x, y / tokens) for x, y in zip(layer["first_share"], first[i]))
        assert math.isclose(layer["entropy"], entropy[i] / tokens / math.log(4), rel_tol=1e-5)
        assert layer["confusion"] == confusion[i]
    right = [sum(confusion[i][e][e] for i in range(layers)) / sum(sum(confusion[i][e]) for i in range(layers)) for e in (0, 1)]
    assert math.isclose(report["right_share"], sum(right) / 2) and report["experts"][2]["right_share"] is None


def test_text_of_tokens(case):
    """Put together, they are the text again; a character of several tokens comes with the last of them."""
    case.model("mix", tiny_mixture("mix"))
    tokens = routed(case, "mix", "--prompt", "ab\u00e9\u4e2dc", "--per-token")["texts"][0]["per_token"]
    assert [token["text"] for token in tokens] == ["<s>", "a", "b", "", "\u00e9", "", "", "\u4e2d", "c"]


def test_one_expert_has_the_perplexity_of_the_model(case):
    """As often as it is there: two mixtures of the base alone say the same of a text."""
    case.yaml(text="base_model: base\ngate_mode: random\nexperts_per_token: 1\nexperts:\n  - source_model: base\n", file="one.yaml")
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: base\n  - source_model: base\n", file="two.yaml")
    words, useless = [word.removeprefix("0=").removeprefix("1=") for word in texts(case)], "--i-understand-this-is-not-useful-without-training"
    one, two = (routed(case, name, *words, useless) for name in ("one.yaml", "two.yaml"))
    for a, b in zip(one["texts"], two["texts"]):
        assert math.isclose(a["perplexity"], b["perplexity"], rel_tol=2e-3), (a, b)
    assert [finding["kind"] for finding in one["findings"]] == ["one_expert"]
    assert "every token goes to" in route(case, "one.yaml", *words, useless).stdout.replace("\n", " ").replace("  ", " ")


def test_long_text_is_cut_into_windows(case):
    """The model sees 64 tokens; a window beyond that begins anew."""
    case.model("mix", tiny_mixture("mix"))
    case.write("long.txt", "x" * 200)
    report = routed(case, "mix", "--text", "long.txt", "--per-token")
    tokens = report["texts"][0]["per_token"]
    assert report["window"] == 64 and report["tokens"] == 200
    assert [i for i, token in enumerate(tokens) if not token["counted"]] == [0, 64, 128, 192]


def test_text_beyond_max_tokens(case):
    case.model("mix", tiny_mixture("mix"))
    case.write("long.txt", "\u00e9" * 60_000)
    result = route(case, "mix", "--text", "long.txt", "--max-tokens", "100", "--json")
    text = json.loads(result.stdout)["texts"][0]
    assert text["tokens"] == 100 and text["left_out_bytes"] == 120_000 - 100
    result.says("long.txt: its first 100 tokens are read, the other 120 kB are left out (--max-tokens 100)")
    lines = "".join(json.dumps({"text": "abcd"}) + "\n" for _ in range(10))
    case.write("lines.jsonl", lines)
    text = routed(case, "mix", "--text", "lines.jsonl", "--max-tokens", "10")["texts"][0]
    assert (text["tokens"], text["documents"], text["left_out_bytes"]) == (10, 3, 30), text


def test_thousands_of_texts(case):
    case.model("mix", tiny_mixture("mix"))
    case.write("lines.jsonl", "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(3000)))
    prompts = [word for i in range(1000) for word in ("--prompt", f"text {i}")]
    result = route(case, "mix", "--text", "lines.jsonl", "--max-tokens", "100000", *prompts).prints("and 985 more")
    assert max(len(line) for line in result.stdout.splitlines()) <= 105


# ---------------------------------------------------------------------------------------------------------------- labels


@rows({
    "number": ("1=text", 1, "text"),
    "name": ("one=text", 0, "text"),
    "no label": ("some text", None, "some text"),
    "an equation": ("a + b = c", None, "a + b = c"),
    "equation for an expert": ("two=1 = 1", 1, "1 = 1"),
    "whatever is in it": ("=1=text", None, "1=text"),
})
def test_label_of_a_prompt(case, value, meant, text):
    found = routed(case, "moe.yaml", "--prompt", value)["texts"][0]
    assert (found["meant"], found["name"]) == (meant, f'"{text}"'), found


@rows({
    "near a name": (["--prompt", "onee=x"], '"onee" is no expert of this mixture (did you mean "one"?); they are 0 (one), 1 (two)'),
    "number too large": (["--prompt", "2=x"], '"2" is no expert of this mixture; they are 0 (one), 1 (two). For a text'),
    "file": (["--text", "tow=a.txt"], '(did you mean "two"?); they are 0 (one), 1 (two), and there is no file of that name either'),
    "no such file": (["--text", "1=absent.txt"], '--text "absent.txt": there is no such file'),
    "no such file without label": (["--text", "absent.txt"], '--text "absent.txt": there is no such file'),
})
def test_wrong_label(case, words, sentence):
    refused(case, 2, sentence, "moe.yaml", *words)


def test_label_is_a_path_or_its_last_part(case):
    case.models("base", "models/one", "models/two")
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: models/one\n  - source_model: models/two\n")
    words = ["--prompt", "models/two=x", "--prompt", "two=x", "--prompt", "1=x"]
    assert [text["meant"] for text in routed(case, "moe.yaml", *words)["texts"]] == [1, 1, 1]


def test_two_experts_of_one_name(case):
    case.models("base", "a/one", "b/one")
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: a/one\n  - source_model: b/one\n")
    refused(case, 2, 'the label "one" names experts 0, 1: say one by its number', "moe.yaml", "--prompt", "one=x")


def test_file_whose_name_has_an_equals_sign(case):
    case.write("x=y.txt", TEXT)
    assert routed(case, "moe.yaml", "--text", "x=y.txt")["texts"][0]["meant"] is None


def test_names_of_a_folder(case):
    case.built()
    found = routed(case, "out", "--prompt", "two=x")
    assert found["texts"][0]["meant"] == 1 and [expert["name"] for expert in found["experts"]] == ["one", "two"]
    case.model("mix", tiny_mixture("mix"))
    refused(case, 2, '"two" is no expert of this mixture; they are 0 to 2', "mix", "--text", "two=x")


def test_experts_of_a_grown_mixture_come_last(case):
    grown(case)
    report = routed(case, "moe.yaml", "--prompt", "two=x")
    assert report["texts"][0]["meant"] == 4 and [expert["name"] for expert in report["experts"]] == [None] * 3 + ["one", "two"]


def test_without_text_the_prompts_of_the_yaml(case):
    result = route(case, "moe.yaml").prints("The texts are the YAML's own positive prompts", '"import os"')
    texts = routed(case, "moe.yaml")["texts"]
    assert [(text["name"], text["meant"]) for text in texts] == [('"def f(x):"', 0), ('"import os"', 0), ('"2 + 2 ="', 1), ('"prove that"', 1)]
    assert "too few to judge" in result.stdout


# -------------------------------------------------------------------------------------------------------------- refusals


def test_help(case):
    result = case.run("route", "--help").exits(0).prints(
        "Usage: moerge route [OPTIONS] MODEL_OR_CONFIG", "--text", "--prompt", "--max-tokens", "--threads", "--device", "--load-in-8bit",
        "--json", "--html", "--per-token", "--overwrite", "examples:")
    assert result.stderr == ""


@rows({
    "dense model": (["base", "--prompt", "x"], "base: a dense model has no routers: moerge route takes a mixture"),
    "absent model": (["absent", "--prompt", "x"], 'model "absent": no such folder'),
    "absent YAML": (["absent.yaml", "--prompt", "x"], 'CONFIG "absent.yaml": there is no such file'),
    "no text": (["mix"], "which text? --text FILE or --prompt TEXT"),
    "empty prompt": (["mix", "--prompt", ""], "there is no text in it"),
    "prompt that is no UTF-8": (["mix", "--prompt", b"\xff"], ""),
    "both widths": (["mix", "--prompt", "x", "--load-in-8bit", "--load-in-4bit"], "exclude each other"),
    "unknown device": (["mix", "--prompt", "x", "--device", "nosuch"], 'this build has no device "nosuch"'),
    "tokens without JSON": (["mix", "--prompt", "x", "--per-token"], "--per-token goes into what --json prints: add --json"),
    "page in no folder": (["mix", "--prompt", "x", "--html", "absent/page.html"], "is not a folder"),
    "page that is a folder": (["mix", "--prompt", "x", "--html", "mix"], "mix exists and is not a file"),
    "misspelt": (["mix", "--promt", "x"], "unknown flag --promt (did you mean --prompt?)"),
    "too many tokens to list": (["mix", "--text", "big.txt", "--json", "--per-token", "--max-tokens", "400000"],
                                "are too many to list; --max-tokens"),
})
def test_refusal(case, words, sentence):
    case.model("mix", tiny_mixture("mix"))
    if "big.txt" in words:
        case.write("big.txt", "x" * 400_000)
    if b"\xff" in words:  # the shell's arguments are bytes; Python spells this one so
        words = [os.fsdecode(word) for word in words]
        before = case.snapshot()
        case.fill_in()
        done = subprocess.run([case.binary, "route", *words], cwd=case.work, env=case.variables(), capture_output=True)
        assert done.returncode == 1 and b"--prompt: no UTF-8 text: byte 0 is 0xff" in done.stderr, done
        return
    refused(case, 2, sentence, *words)


@rows({
    "empty": ("a.txt", b"", "a.txt: there is no text in it"),
    "empty lines": ("a.jsonl", b"\n\n", "a.jsonl: there is no text in it"),
    "no UTF-8": ("a.txt", b"ab\xff", "a.txt: no UTF-8 text: byte 2 is 0xff"),
    "no JSON": ("a.jsonl", b'{"text": "x"}\nnothing\n', "a.jsonl:2: "),
    "no text in it": ("a.jsonl", b'{"txt": "x"}\n', 'a.jsonl:1: "text" is missing'),
    "no object": ("a.jsonl", b"[1]\n", 'a.jsonl:1: an object with "text" is expected'),
})
def test_text_that_is_none(case, name, content, sentence):
    case.write(name, content)
    refused(case, 1, sentence, "moe.yaml", "--text", name)


def test_without_a_tokenizer(case):
    model = tiny_mixture("mix")
    model.files.pop("tokenizer.json")
    case.model("mix", model)
    refused(case, 1, "there is no tokenizer.json or tokenizer.model", "mix", "--prompt", "x")


def test_yaml_whose_base_has_no_tokenizer(case):
    base = tiny_model("base")
    base.files.pop("tokenizer.json")
    case.model("base", base)
    refused(case, 1, "there is no tokenizer.json or tokenizer.model", "moe.yaml", "--prompt", "x")


@rows({"router": (router_name("mixtral", 1), "layer 1"), "expert": ("model.layers.0.block_sparse_moe.experts.0.w1.weight", "layer 0")})
def test_damaged_weights(case, name, where):
    model = tiny_mixture("mix", dtype="F32")
    shape = model.tensors[name].shape
    model.tensors[name] = tensor("F32", shape, [math.nan] * math.prod(shape))
    case.model("mix", model)
    refused(case, 1, f"what {where} computes holds infinite values or NaN", "mix", *texts(case), "--html", "page.html")


# ---------------------------------------------------------------------------------------------------------------- report


def test_plain_where_nobody_looks(case):
    case.model("mix", tiny_mixture("mix"))
    result = route(case, "mix", *texts(case)).prints("Where tokens go", "Experts, mean over layers", "Meant and first choice", "Diagnosis")
    assert "\033" not in result.stdout and not re.search("[\u2580-\u259f]", result.stdout)
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


@rows({"terminal": ({}, True), "NO_COLOR": ({"NO_COLOR": "1"}, False)})
def test_bars_on_a_terminal(case, environment, expected):
    case.model("mix", tiny_mixture("mix"))
    words = texts(case)
    ours, theirs = pty.openpty()
    run = subprocess.Popen([case.binary, "route", "mix", *words, "--quiet"], cwd=case.work, stdout=theirs, stdin=subprocess.DEVNULL,
                           env={**case.variables(), **environment})
    case.started.append(run)
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert run.wait() == 0
    assert (b"\033[1m" in output) == expected and bool(re.search("[\u2580-\u259f]", output.decode())) == expected, output


def test_many_layers_and_experts(case):
    """Layers are grouped, experts have one character, lines stay short."""
    case.model("mix", tiny_mixture("mix", "qwen3_moe", experts=64, num_hidden_layers=40, expert_ffn=4, num_experts_per_tok=4))
    result = route(case, "mix", *texts(case)).prints("0-1", "38-39", "the 12 least and 12 most used of 64")
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_hostile_names_do_not_drive_the_terminal(case):
    case.model("\033[31mmix", tiny_mixture("mix"))
    result = route(case, "\033[31mmix", "--prompt", "a\033[2Jb")
    assert "\033" not in result.stdout and "\\x1b[31mmix" in result.stdout and "\\x1b[2Jb" in result.stdout


# ------------------------------------------------------------------------------------------------------------------ page


class Page(html.parser.HTMLParser):
    """Elements in their order, with what they hold; every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.titles = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.titles += [value for key, value in attributes if key == "title"]
        assert not any(key.startswith("on") or (key in ("src", "href")) for key, _ in attributes), attributes
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag == "rect":
            return
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        self.words.append(data)


def page(case, *words, name="page.html"):
    route(case, *words, "--html", name).says("page.html is ready")
    return Page(case.path(name).read_text())


def test_page(case):
    case.model("mix", tiny_mixture("mix"))
    result = page(case, "mix", *texts(case))
    assert "script" not in result.tags and result.tags.count("svg") == 2
    words = "".join(result.words)
    for part in ("Diagnosis", "Layers and experts", "Meant and chosen", "Texts", "Tokens", "a.txt", "b.jsonl"):
        assert part in words, part
    assert any("layer 1: " in title and "%" in title for title in result.titles)
    assert sorted(path.name for path in case.work.iterdir() if "page" in path.name) == ["page.html"]


def test_page_of_hostile_names(case):
    hostile = "<script>alert(1)<'\"&\033"
    case.model(hostile, tiny_mixture("mix"))
    result = page(case, hostile, "--prompt", "</div><script>alert(2)</script>\" onmouseover=\"x\u202e\0end".replace("\0", "\x01"))
    assert "script" not in result.tags
    words = "".join(result.words)
    assert "<script>alert(1)<'\"&\\x1b" in words and "</div><script>alert(2)</script>" in words.replace("\u21b5", "")


def test_page_is_replaced_only_when_asked(case):
    case.model("mix", tiny_mixture("mix"))
    words = ["mix", "--prompt", "x", "--html", "page.html"]
    case.write("page.html", "mine")
    refused(case, 2, "page.html exists: choose another name, or replace it with --overwrite", *words)
    refused(case, 2, "page.html is no page of moerge route, so --overwrite does not replace it", *words, "--overwrite")
    case.path("page.html").unlink()
    route(case, *words)
    refused(case, 2, "page.html exists", *words)
    route(case, *words, "--overwrite")


def test_page_that_does_not_fit_the_disk(case):
    case.model("mix", tiny_mixture("mix"))
    result = case.run("route", "mix", *texts(case), "--html", "page.html", limit=8).exits(1).says("page.html")
    assert not case.path("page.html").exists() and not list(case.work.glob(".page*")), result


def test_data_of_the_yaml(case):
    case.write("a.txt", "import os\n" * 60)
    case.write("b.jsonl", json.dumps({"text": "a dark and stormy night"}) + "\n")
    case.yaml(text="base_model: base\ngate_mode: router_input\nexperts:\n"
                   "  - source_model: one\n    data: a.txt\n"
                   "  - source_model: two\n    positive_prompts: [it was so]\n    data: b.jsonl\n")
    report = json.loads(route(case, "moe.yaml", "--json", "--max-tokens", "500").stdout)
    assert [(text["name"], text["meant"], text["tokens"]) for text in report["texts"]] == [
        ('"it was so"', 1, len("it was so")), ("data of expert 0 (one)", 0, 500), ("data of expert 1 (two)", 1, 23)], report["texts"]
    route(case, "moe.yaml").prints("The texts are the YAML's own positive prompts and data, which the routers were made from")
