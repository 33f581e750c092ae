"""moerge imatrix: what it refuses, what it writes and what it says. What it measures: moerge/engine/imatrix_test.cpp."""
import json, signal, subprocess, time
from pathlib import Path

from test_gguf import fill_in
from harness import rows

DATA = Path(__file__).resolve().parent.parent / "engine" / "imatrix"
TEXT = (DATA / "text.txt").read_text()


def prepare(case):
    case.write("model.gguf", (DATA / "model.gguf").read_bytes())
    case.write("text.txt", TEXT)


def imatrix(case, *flags, model="model.gguf", text="text.txt"):
    return case.run("imatrix", model, "--text", text, "--ctx", 64, *flags)


def refused(case, code, sentence, *flags, **how):
    before = case.snapshot()
    result = imatrix(case, *flags, **how).exits(code).says("moerge: ", sentence)
    if result.stdout:
        result.fail("a refusal belongs on stderr, stdout is not empty")
    if case.snapshot() != before:
        result.fail("the refused run left something behind")


# ------------------------------------------------------------------------------------------------------------- arguments


def test_help(case):
    result = case.run("imatrix", "--help").exits(0).prints(
        "Usage: moerge imatrix [OPTIONS] MODEL", "--text", "--ctx", "--chunks", "--process-output", "--output", "--overwrite",
        "--threads", "--device", "--json", "--quiet", "example:")
    assert result.stderr == ""


@rows({
    "no arguments": ([], "MODEL is required"),
    "no text": (["model.gguf"], "--text is required"),
    "two models": (["model.gguf", "other.gguf", "--text", "text.txt"], "other.gguf"),
    "a text without its flag": (["model.gguf", "--text", "text.txt", "more.txt"], "more.txt"),
    "misspelt": (["model.gguf", "--text", "text.txt", "--overwrit"], "unknown flag --overwrit (did you mean --overwrite?)"),
    "chunks too short": (["model.gguf", "--text", "text.txt", "--ctx", "15"], "--ctx: Value 15 not in range 16 to 1048576"),
    "no chunks": (["model.gguf", "--text", "text.txt", "--chunks", "0"], "--chunks: Value 0 not in range"),
    "no threads": (["model.gguf", "--text", "text.txt", "-j", "0"], "--threads: Value 0 not in range 1 to 1024"),
})
def test_usage_error_names_the_help(case, words, sentence):
    prepare(case)
    before = case.snapshot()
    result = case.run("imatrix", *words).exits(2).says("moerge: ", sentence, "moerge imatrix --help lists the flags")
    assert result.stdout == "" and case.snapshot() == before


def test_unknown_device(case):
    prepare(case)
    refused(case, 2, 'this build has no device "nosuch" (it has "', "--device", "nosuch")


# ----------------------------------------------------------------------------------------------------------------- model


def test_model_that_is_absent(case):
    prepare(case)
    refused(case, 2, 'MODEL "absent.gguf": there is no such file', model="absent.gguf")


@rows({"folder": ("base",), "yaml": ("moe.yaml",)})
def test_folder_or_yaml_becomes_a_gguf_meanwhile(case, source):
    """The same numbers as from a 16-bit GGUF made beforehand, and nothing else is left."""
    fill_in(case)
    case.write("text.txt", TEXT * 3)
    case.run("gguf", source, "whole.gguf", "--type", "auto").exits(0)
    before = set(case.work.iterdir())
    imatrix(case, "-o", "a.gguf", model=source).exits(0).says("makes a BF16 GGUF of")
    imatrix(case, "-o", "b.gguf", model="whole.gguf").exits(0)
    assert set(case.work.iterdir()) - before == {case.path("a.gguf"), case.path("b.gguf")}
    assert case.path("a.gguf").read_bytes() == case.path("b.gguf").read_bytes()


@rows({
    "text": (b"once upon a time", "model.gguf: no GGUF file"),
    "empty": (b"", "model.gguf: truncated"),
    "cut": ((DATA / "model.gguf").read_bytes()[:60000], "model.gguf: truncated"),
    "an importance matrix": ((DATA / "reference.gguf").read_bytes(), 'of type "imatrix", expected a model'),
})
def test_model_that_is_none(case, content, sentence):
    prepare(case)
    case.write("model.gguf", content)
    refused(case, 1, sentence)


# ------------------------------------------------------------------------------------------------------------------ text


def test_text_that_is_absent(case):
    prepare(case)
    refused(case, 2, '--text "absent.txt": there is no such file', text="absent.txt")


def test_text_shorter_than_a_chunk(case):
    prepare(case)
    case.write("text.txt", "much too short\n")
    refused(case, 1, "the text has 15 tokens, one chunk needs 64: more text, or shorter chunks")


@rows({
    "latin 1": (b"caf\xe9 " * 100, "text.txt: no UTF-8 text: byte 3 is 0xe9"),
    "cut": ("é".encode()[:1], "byte 0 is 0xc3"),
    "overlong": (b"ab\xc0\x80", "byte 2 is 0xc0"),
    "a surrogate": (b"\xed\xa0\x80", "byte 0 is 0xed"),
    "beyond Unicode": (b"x\xf4\x90\x80\x80", "byte 1 is 0xf4"),
    "a parquet file": (b"PAR1\x15\x04\x15\xff", "byte 7 is 0xff"),
})
def test_text_that_is_not_utf8(case, content, sentence):
    prepare(case)
    case.write("text.txt", content)
    refused(case, 1, sentence)


@rows({
    "no JSON": ('{"text": "a"}\n{"text": \n', "text.jsonl:2"),
    "no object": ('["text"]\n', 'text.jsonl:1: an object with "text" is expected'),
    "no text": ('{"text": "a"}\n\n{"prompt": "b"}\n', 'text.jsonl:3: "text" is missing'),
    "text of another type": ('{"text": 5}\n', "text.jsonl:1"),
})
def test_json_lines_that_are_none(case, content, sentence):
    prepare(case)
    case.write("text.jsonl", content)
    refused(case, 1, sentence, text="text.jsonl")


def test_texts_are_joined(case):
    """The same text in one file, in two, and as JSON lines, gives the same numbers."""
    prepare(case)
    lines = TEXT.splitlines()
    case.write("a.txt", "\n".join(lines[:2]))  # without a line end
    case.write("b.jsonl", "".join(json.dumps({"text": line, "source": 7}) + "\r\n\n" for line in lines[2:]))
    imatrix(case, "-o", "one").exits(0)
    result = imatrix(case, "--text", "b.jsonl", "-o", "two", text="a.txt").exits(0)
    one, two = case.path("one").read_bytes(), case.path("two").read_bytes()
    assert b"text.txt" in one and b"a.txt" in two and b"b.jsonl" in two
    if one[-2400:] != two[-2400:]:  # the tensors
        result.fail("other numbers")


def test_every_character_of_utf8_passes(case):
    prepare(case)
    case.write("text.txt", "a\u00e9\u20ac\ud7ff\ue000\U0001f600\U0010ffff" * 20)
    imatrix(case).exits(0)


# ---------------------------------------------------------------------------------------------------------------- output


def test_output_lies_beside_the_model(case):
    case.write("models/tiny.gguf", (DATA / "model.gguf").read_bytes())
    case.write("text.txt", TEXT)
    result = imatrix(case, model="models/tiny.gguf").exits(0).says(
        "the text has 303 tokens: 4 chunks of 64", "importance: 256 tokens in ",
        "3 experts, 2 for each token; an even share is 170 of 256 tokens in each of 2 layers", "expert 2: ",
        "models/tiny.imatrix.gguf is ready: 16 tensors")
    assert result.stdout == ""
    assert sorted(path.name for path in case.path("models").iterdir()) == ["tiny.gguf", "tiny.imatrix.gguf"]


def test_two_runs_write_the_same(case):
    prepare(case)
    imatrix(case, "-o", "one.gguf", "-j", 1).exits(0)
    imatrix(case, "-o", "two.gguf", "-j", 2).exits(0)
    assert case.path("one.gguf").read_bytes() == case.path("two.gguf").read_bytes()


def test_process_output_adds_a_tensor(case):
    prepare(case)
    imatrix(case, "--process-output").exits(0).says("model.imatrix.gguf is ready: 17 tensors")
    assert b"output.weight.in_sum2" in case.path("model.imatrix.gguf").read_bytes()


def test_json(case):
    prepare(case)
    result = imatrix(case, "--json", "--quiet", "--chunks", 3).exits(0)
    found = json.loads(result.stdout)
    assert [found[key] for key in ("file", "model", "texts", "tensors", "chunks", "chunk_size", "tokens")] == [
        "model.imatrix.gguf", "model.gguf", ["text.txt"], 16, 3, 64, 192], found
    assert [entry["layer"] for entry in found["experts"]] == [0, 1]
    assert all(sum(entry["tokens"]) == 2 * 192 and len(entry["tokens"]) == 3 for entry in found["experts"])


def test_experts_that_saw_little_are_named_even_when_quiet(case):
    prepare(case)
    result = imatrix(case, "--chunks", 1, "--quiet").exits(0)
    warnings = result.warnings()
    if len(warnings) != 1 or len(result.stderr.splitlines()) != 1:
        result.fail("expected one warning and nothing else")
    result.says("experts that saw few tokens of the text (less than 128", "add text of what they are for")


def test_chunks_longer_than_the_model_knows(case):
    prepare(case)
    result = case.run("imatrix", "model.gguf", "--text", "text.txt", "--ctx", 65, "-q").exits(0)
    result.says("warning: chunks of 65 tokens are longer than the 64 that model.gguf was trained for")


def test_existing_output_is_kept(case):
    prepare(case)
    case.write("model.imatrix.gguf", (DATA / "reference.gguf").read_bytes())
    refused(case, 2, "model.imatrix.gguf exists: choose another name with -o, or replace it with --overwrite")


@rows({name: (name,) for name in ("reference.gguf", "reference.dat")})
def test_overwrite_replaces_an_importance_matrix(case, name):
    prepare(case)
    case.write("old", (DATA / name).read_bytes())
    imatrix(case, "-o", "old", "--overwrite").exits(0)
    imatrix(case, "-o", "new").exits(0)
    assert case.path("old").read_bytes() == case.path("new").read_bytes()


@rows({name: (name,) for name in ("model.gguf", "text.txt")})
def test_overwrite_replaces_nothing_else(case, name):
    prepare(case)
    refused(case, 2, f"{name} is not an importance matrix, so --overwrite does not replace it", "-o", name, "--overwrite")


def test_output_in_a_folder_that_is_absent(case):
    prepare(case)
    refused(case, 2, "cannot write absent/out.gguf: ", "-o", "absent/out.gguf")


def test_output_that_is_a_folder(case):
    prepare(case)
    case.path("folder").mkdir()
    refused(case, 2, "folder exists and is not a file", "-o", "folder", "--overwrite")


def test_full_disk_leaves_nothing(case):
    prepare(case)
    disk = case.tmpfs("disk", "4k")
    imatrix(case, "-o", "disk/out.gguf").exits(1).says("moerge: cannot write")
    assert list(disk.iterdir()) == []


def test_interrupt_leaves_nothing(case):
    prepare(case)
    case.write("long.txt", TEXT * 4000)
    before = case.snapshot()
    command = case.command(["imatrix", "model.gguf", "--text", "long.txt", "--ctx", 64, "-j", 1])
    run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True)
    case.started.append(run)
    assert "chunks of 64" in run.stderr.readline()  # it has begun to measure
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 130, (run.returncode, stderr)
    assert case.snapshot() == before
