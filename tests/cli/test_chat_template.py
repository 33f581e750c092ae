"""chat_template in the YAML: where it may come from, where it goes, and what is refused."""
import json, sys
from pathlib import Path

from harness import rows
from tiny_gguf import ARRAY, STRING, tiny_gguf
from tiny_models import tiny_model, tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gguf"))
from reader import File as GgufFile

CONFIG = b'{"model_max_length": 1000000000000000019884624838656, "chat_template": "of the base", "bos_token": "<s>"}\n'
STALE = {"chat_template.jinja": b"stale", "chat_template.json": b'{"chat_template": "stale"}'}


def model(name, special=("<s>", "</s>"), **files):
    """A model that llama.cpp's vocabulary loader takes, with these files ("__" stands for the dot)."""
    made = tiny_model(name, vocab_size=257 + len(special))
    made.files["tokenizer.json"] = json.dumps(tokenizer(special, merges=True)).encode()
    made.files |= {key.replace("__", "."): content for key, content in files.items()}
    return made


def prepare(case, value, base=None, one=None):
    case.model("base", base or model("base", tokenizer_config__json=CONFIG))
    case.model("one", one or model("one"))
    case.model("two", model("two"))
    case.yaml(top=f"chat_template: {value}\n")


def template_of(out):
    return json.loads(out.read("tokenizer_config.json"))["chat_template"]


def test_without_the_key_files_stay_as_they_are(case):
    base = model("base", tokenizer_config__json=CONFIG)
    base.files |= STALE
    for name, made in {"base": base, "one": model("one"), "two": model("two")}.items():
        case.model(name, made)
    out = case.built()
    for name, content in (STALE | {"tokenizer_config.json": CONFIG}).items():
        assert out.read(name) == content, name
    assert "Chat template" not in out.read("README.md").decode()


@rows({
    "the base's": ("base", "of the base", 'of the base "base"'),
    "an expert's": ("one", "of one\nits default\n", 'of expert "one"'),
    "a file": ("more/mine.txt", "\u00e9 {{ messages }}\n", 'file "more/mine.txt"'),
})
def test_where_it_comes_from(case, value, text, origin):
    one = model("one", chat_template__jinja=b"of one\r\nits default\n", tokenizer_config__json=CONFIG)
    prepare(case, value, one=one)
    case.write("more/mine.txt", "\u00e9 {{ messages }}\n")
    plan = json.loads(case.moe("--dry-run", "--json").exits(0).stdout)
    assert plan["chat_template"] == {"from": origin, "template": text}, plan["chat_template"]
    case.moe("--dry-run").exits(0).prints(f"chat      template {origin}")
    out = case.built()
    assert template_of(out) == text
    assert f"Chat template: `{origin}`." in out.read("README.md").decode()


def test_nothing_else_of_the_base_s_files_changes(case):
    base = model("base", tokenizer_config__json=CONFIG, special_tokens_map__json=b"{ }")
    base.files |= STALE
    prepare(case, "one", base, model("one", tokenizer_config__json=b'{"chat_template": "new"}'))
    case.write("base/additional_chat_templates/rag.jinja", "stale")
    out = case.built()
    assert out.read("tokenizer_config.json") == CONFIG.replace(b"of the base", b"new")
    assert out.read("tokenizer.json") == base.files["tokenizer.json"] and out.read("special_tokens_map.json") == b"{ }"
    assert not {*STALE, "additional_chat_templates"} & set(out.files()), out.files()


def test_base_without_tokenizer_config(case):
    prepare(case, "./t", model("base", tokenizer_config__json=None))
    case.write("t", "x")
    assert json.loads(case.built().read("tokenizer_config.json")) == {"chat_template": "x"}


@rows({
    "chatml": ("chatml", ("<|im_start|>", "<|im_end|>")),
    "llama3": ("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": ("mistral", ()),
    "alpaca": ("alpaca", ()),
    "exaone": ("exaone", ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]")),
})
def test_built_in(case, name, tokens):
    prepare(case, name, model("base", ("<s>", "</s>") + tokens))
    for other in ("one", "two"):
        case.model(other, model(other, ("<s>", "</s>") + tokens))
    text = template_of(case.built())
    assert all(token in text for token in tokens) and "message['content']" in text, text


def test_tokens_that_the_base_lacks_are_named(case):
    prepare(case, "chatml", model("base", ("<s>", "<|im_end|>")))
    for other in ("one", "two"):
        case.model(other, model(other, ("<s>", "<|im_end|>")))
    case.built(warning='moe.yaml:3:16: the chat template "chatml" writes <|im_start|>, which the tokenizer of "base" cuts up into '
                       'several tokens: the result was not trained on it')


@rows({
    "unknown": ("chatlm", 2, 'moe.yaml:3:16: unknown chat_template "chatlm" (did you mean "chatml"?); possible are "base", an '
                             "expert's source_model as it is written here, chatml, llama3, mistral, alpaca, exaone, or a file"),
    "expert without one": ("two", 2, 'moe.yaml:3:16: expert "two" has no chat template: name another model'),
    "an empty file": ("empty", 2, "empty is empty"),
    "no text": ("binary", 1, "binary is not UTF-8"),
    "a list without a default": ("one", 1, 'one/tokenizer_config.json: "chat_template" should be a text, or a list'),
})
def test_refused(case, value, code, sentence):
    prepare(case, value, one=model("one", tokenizer_config__json=b'{"chat_template": []}'))
    case.write("empty", b"")
    case.write("binary", b"\xff\xfe")
    case.refused(code, sentence)


def test_base_without_one(case):
    prepare(case, "base", model("base"))
    case.refused(2, 'moe.yaml:3:16: the base "base" has no chat template')


def test_base_without_a_tokenizer(case):
    prepare(case, "alpaca", model("base", tokenizer__json=None, tokenizer_config__json=None))
    case.refused(2, 'moe.yaml:3:16: the base "base" has no tokenizer')


def test_no_copy_tokenizer_leaves_no_place_for_it(case):
    prepare(case, "alpaca")
    case.refused(2, "moe.yaml:3:16: a chat_template is written into the tokenizer's files", flags=["--no-copy-tokenizer"])


def gguf_template(case, source, out):
    case.run("gguf", source, out, "--type", "f16", "--name", "x").exits(0)
    keys = GgufFile(next(case.path(out).glob("*.gguf"))).keys
    return {key: found.value for key, found in keys.items() if key.startswith("tokenizer.chat_template")}


@rows({"base": ("base",), "expert": ("one",), "built in": ("alpaca",)})
def test_gguf_has_the_same(case, value):
    base = model("base", tokenizer_config__json=CONFIG)
    base.files |= STALE
    prepare(case, value, base, model("one", tokenizer_config__json=b'{"chat_template": "new"}'))
    out = case.built()
    assert gguf_template(case, "moe.yaml", "direct") == {"tokenizer.chat_template": template_of(out)}
    assert gguf_template(case, "out", "long") == {"tokenizer.chat_template": template_of(out)}


def test_gguf_files_as_base_and_expert(case):
    for name, template in (("base", "of the base"), ("one", "of one"), ("two", None)):
        gguf = tiny_gguf(case.model(name))
        if template:
            gguf.metadata["tokenizer.chat_template"] = (STRING, template)
            gguf.metadata["tokenizer.chat_templates"] = ((ARRAY, STRING), ["rag"])
            gguf.metadata["tokenizer.chat_template.rag"] = (STRING, "stale")
        gguf.write(case.path(f"{name}.gguf"))
    case.yaml(text="base_model: base.gguf\ngate_mode: random\nchat_template: one.gguf\nexperts:\n"
                   "  - source_model: one.gguf\n  - source_model: two.gguf\n")
    assert template_of(case.built()) == "of one"
    assert gguf_template(case, "moe.yaml", "direct") == {"tokenizer.chat_template": "of one"}
    case.yaml(text="base_model: base.gguf\ngate_mode: random\nchat_template: two.gguf\nexperts:\n"
                   "  - source_model: one.gguf\n  - source_model: two.gguf\n")
    case.refused(2, 'expert "two.gguf" has no chat template', out="other")
