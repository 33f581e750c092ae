"""What MODEL of `moerge chat` can be: what is made of it, what is kept, and whether it fits into memory."""
import os, re, signal, subprocess, time
from pathlib import Path

from harness import rows
from test_gguf import fill_in, model
from tiny_gguf import STRING, U32, tiny_gguf

WIDE = {"hidden_size": 256, "intermediate_size": 256}  # rows that every type can hold
UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def human(size):
    return f"{size / 1e3:.1f} kB" if size < 99_950 else f"{size / 1e3:.0f} kB"


def chat(case, source, *flags, **variables):
    case.environment |= variables
    return case.run("chat", source, "-p", "hi", "-n", "3", "--temp", "0", "-t", "1", *flags)


def cached(case, folder=".cache/moerge"):
    return sorted((case.folder / folder / "models").glob("*.gguf"))


def leftovers(case):
    return [path.name for path in (case.folder / ".cache/moerge/models").iterdir() if path.suffix != ".gguf"]


def refused(case, sentence, source, *flags, code=2, **variables):
    before = case.snapshot()
    result = chat(case, source, *flags, **variables).exits(code).says("moerge: ", sentence)
    if result.stdout or case.snapshot() != before:
        result.fail("a refusal prints or leaves something")
    return result


def small_gguf(case, name="model.gguf", template=None, **config):
    made = tiny_gguf(model(Path(name).stem, **config))
    if template is not None:
        made.metadata["tokenizer.chat_template"] = (STRING, template)
    made.write(case.path(name))
    return made


# ----------------------------------------------------------------------------------------------------- made once, and kept


def test_yaml_is_converted_once(case):
    fill_in(case)
    first = chat(case, "moe.yaml", "--type", "q8_0").exits(0)
    files = cached(case)
    assert len(files) == 1 and re.fullmatch(r"moe\.Q8_0\.[0-9a-f]{8}-[0-9a-f]{16}\.gguf", files[0].name), files
    size = files[0].stat().st_size
    first.says(f"makes a Q8_0 GGUF of moe.yaml, {human(size)}, in {files[0].parent} (once; the next start takes it from there)",
               f"moe: Q8_0, {human(size)}, mixture of 2 experts, 2 per token, 2 layers",
               "the model has no chat template, so this is plain completion")
    assert not leftovers(case)
    time_made = files[0].stat().st_mtime_ns
    second = chat(case, "moe.yaml", "--type", "Q8_0").exits(0)
    assert "makes" not in second.stderr and second.stdout == first.stdout, second.stderr
    assert cached(case) == files and files[0].stat().st_mtime_ns == time_made
    chat(case, "moe.yaml", "--type", "q8_0", "--rebuild").exits(0).says("makes a Q8_0")
    assert cached(case) == files and files[0].stat().st_mtime_ns > time_made


@rows({
    "the YAML": (lambda case: case.yaml(top="experts_per_token: 1\n"),),
    "an expert's weights": (lambda case: os.utime(case.path("one/model.safetensors")),),
    "a tokenizer": (lambda case: os.utime(case.path("base/tokenizer.json")),),
    "its data": (lambda case: case.write("data/a.txt", "more text\n"),),
})
def test_what_changed_is_made_again_and_the_old_one_goes(case, change):
    fill_in(case)
    case.write("data/a.txt", "text\n")
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - {source_model: one, data: data}\n"
                   "  - {source_model: two, data: data}\n")
    chat(case, "moe.yaml", "--type", "f16").exits(0)
    chat(case, "moe.yaml", "--type", "q8_0").exits(0)
    other = case.yaml(file="sub/moe.yaml", text="base_model: ../base\ngate_mode: random\nexperts:\n"
                      "  - {source_model: ../one}\n  - {source_model: ../two}\n")
    chat(case, other, "--type", "q8_0").exits(0)
    before = set(cached(case))
    assert len(before) == 3, before
    change(case)
    chat(case, "moe.yaml", "--type", "q8_0").exits(0).says("makes a Q8_0 GGUF of moe.yaml", "removed a GGUF of moe.yaml")
    after = set(cached(case))
    gone, made = before - after, after - before
    assert len(gone) == len(made) == 1 and gone.pop().name[:17] == made.pop().name[:17], (before, after)


def test_what_a_killed_run_left_goes_too(case):
    fill_in(case)
    chat(case, "moe.yaml", "--type", "q8_0").exits(0)
    start = cached(case)[0].name.split("-")[0]
    partial = cached(case)[0].with_name(f".{start}-0000000000000000.gguf.moerge-partial")
    partial.write_bytes(b"half")
    case.yaml(top="experts_per_token: 1\n")
    chat(case, "moe.yaml", "--type", "q8_0").exits(0)
    assert not partial.exists() and not leftovers(case)


def test_a_damaged_file_is_made_again(case):
    fill_in(case)
    chat(case, "moe.yaml", "--type", "q8_0").exits(0)
    file, = cached(case)
    whole = file.read_bytes()
    file.write_bytes(whole[:len(whole) // 2])
    result = chat(case, "moe.yaml", "--type", "q8_0").exits(0).says("it is made again", "makes a Q8_0")
    assert len(result.warnings()) == 1 and file.read_bytes() == whole


def test_two_at_once(case):
    fill_in(case)
    command = case.command(["chat", "moe.yaml", "-p", "hi", "-n", "3", "--temp", "0", "-t", "1", "--type", "q8_0"])
    runs = [subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    case.started += runs
    answers = {run.communicate(timeout=60)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0] and len(answers) == 1
    assert len(cached(case)) == 1 and not leftovers(case)


def test_interrupted_while_it_is_made(case):
    case.slow_models()  # slow.yaml
    for name in ("base", "one", "two"):
        model(name, num_hidden_layers=1, intermediate_size=20_000, hidden_size=64).write(case.path(name), 1)
    command = case.command(["chat", "slow.yaml", "-p", "hi", "--type", "q8_0"])
    run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    case.started.append(run)
    folder, end = case.folder / ".cache/moerge/models", time.monotonic() + 30
    while not (folder.is_dir() and list(folder.glob(".*.moerge-partial"))):
        assert run.poll() is None and time.monotonic() < end, run.communicate()
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130, run.communicate()
    assert list(folder.iterdir()) == []


def test_no_space(case):
    fill_in(case)
    disk = case.tmpfs("disk", "64k")
    chat(case, "moe.yaml", "--type", "f32", MOERGE_CACHE=str(disk)).exits(1).says(
        f"not enough space for a F32 GGUF of moe.yaml in {disk}/models: ", " needed, 65.5 kB free; MOERGE_CACHE names another folder")
    assert list(disk.iterdir()) == []


@rows({"MOERGE_CACHE": ("MOERGE_CACHE", "models"), "XDG_CACHE_HOME": ("XDG_CACHE_HOME", "moerge/models")})
def test_cache_folder(case, variable, below):
    fill_in(case)
    chat(case, "moe.yaml", "--type", "q8_0", **{variable: str(case.folder / "place")}).exits(0)
    assert [path.suffix for path in (case.folder / "place" / below).iterdir()] == [".gguf"]


# ------------------------------------------------------------------------------------------------------- what MODEL can be


def test_folder(case):
    fill_in(case)
    chat(case, "base/", "--type", "q8_0").exits(0).says("makes a Q8_0 GGUF of base/", "base: Q8_0", ", 2 layers")
    result = chat(case, "base", "--type", "q8_0").exits(0)
    assert "makes" not in result.stderr and "mixture" not in result.stderr


def test_adapterless_hub_name(case):
    repository = case.folder / ".cache/huggingface/hub/models--org--name"
    model("base").write(repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    chat(case, "org/name", "--type", "q8_0").exits(0).says("makes a Q8_0 GGUF of org/name", "name: Q8_0")
    refused(case, 'did you mean "org/name"?', "org/nmae")


@rows({"a file": ("model.gguf", "model.gguf"), "capitals": ("model.GGUF", "model.GGUF"), "its folder": ("in/model.gguf", "in")})
def test_gguf_is_used_as_it_is(case, file, source):
    small_gguf(case, file)
    chat(case, source).exits(0).says("model: ", "context of 64 tokens")
    assert not (case.folder / ".cache").exists()


def test_file_without_an_ending(case):
    small_gguf(case, "sha256-abc.gguf")
    case.path("sha256-abc.gguf").rename(case.path("sha256-abc"))
    chat(case, "sha256-abc").exits(0).says("sha256-abc: ")


def test_split_gguf(case):
    for name, part in tiny_gguf(model("base")).parts("model", 3).items():
        part.write(case.path(name))
    chat(case, "model-00001-of-00003.gguf").exits(0).says("model: ")
    refused(case, "name the first one, model-00001-of-00003.gguf", "model-00002-of-00003.gguf", code=1)


@rows({
    "misspelt": ("famly.gguf", 'model "famly.gguf": no such file (looked in . and the working folder); a GGUF file is named by its '
                 'path, not by a repository; did you mean "family.gguf"?'),
    "without its ending": ("family", 'did you mean "family.gguf"?'),
    "misspelt YAML": ("meo.yaml", 'MODEL "meo.yaml": there is no such file; did you mean "moe.yaml"?'),
    "in a folder": ("sub/modl.gguf", 'did you mean "sub/model.gguf"?'),
    "nothing near": ("./quite-another.gguf", "; . has base, family.gguf, moe.yaml, one, sub, two"),
    "not in the Hub's cache": ("org/name", "fetch it with"),
    "no part of a model": ("family.gguf#exprt=1", "#expert=1"),
    "a dense model's expert": ("base#expert=1", "base"),
    "a text file": ("notes", "notes is a file, not a model's folder or a .gguf file"),
    "unknown type": ("base", "--type q8_1: there is no such type (did you mean Q8_0?)", "--type", "q8_1"),
    "two types": ("base", "--type q8_0,q4_0: one type is expected, or auto", "--type", "q8_0,q4_0"),
})
def test_wrong_model(case, source, sentence, *flags):
    fill_in(case)
    small_gguf(case, "family.gguf")
    small_gguf(case, "sub/model.gguf")
    case.write("notes", "text")
    refused(case, sentence, source, *flags)


@rows({"cut off": (lambda data: data[:len(data) // 2],), "no GGUF": (lambda data: b"nonsense" * 8,)})
def test_damaged_gguf(case, damage):
    small_gguf(case)
    case.write("model.gguf", damage(case.path("model.gguf").read_bytes()))
    refused(case, "model.gguf", "model.gguf", code=1)


@rows({
    "layers": ("llama.block_count", (U32, 2**31 - 1)),
    "context": ("llama.context_length", (U32, 2**32 - 1)),
    "heads": ("llama.attention.head_count", (U32, 0)),
    "more heads": ("llama.attention.head_count_kv", (U32, 3_000_000_000)),
    "width": ("llama.embedding_length", (U32, 2**31)),
})
def test_hostile_header(case, key, value):
    made = small_gguf(case)
    made.metadata[key] = value
    made.write(case.path("model.gguf"))
    result = chat(case, "model.gguf", MOERGE_MEMORY_LIMIT="1M")
    if result.code not in (0, 1, 2) or "internal error" in result.stderr:
        result.fail("no error of ours")


# ----------------------------------------------------------------------------------------------------------------- memory


def numbers(text):
    """The sizes in a sentence, in bytes."""
    return [float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (bytes|kB|MB|GB)", text)]


def test_memory_is_judged_before_loading(case):
    small_gguf(case, num_hidden_layers=4, num_key_value_heads=4, max_position_embeddings=100_000)
    size = case.path("model.gguf").stat().st_size
    context, per_token = 32768, 2 * 4 * 4 * 8 * 2  # keys and values, layers, heads, of 8 elements, of 2 bytes
    result = refused(case, f"keys and values for {context} tokens", "model.gguf", "-c", context, MOERGE_MEMORY_LIMIT="10000")
    total, weights, cache, compute, available = numbers(result.stderr)[:5]
    assert available == 10000 and "(MOERGE_MEMORY_LIMIT)" in result.stderr
    assert abs(weights - size) <= 0.06 * size and abs(cache - context * per_token) <= 0.06 * cache, result.stderr
    assert abs(total - weights - cache - compute) <= 0.03 * total, result.stderr
    assert "--ignore-memory goes on anyway" in result.stderr and "-c " not in result.stderr.split("; ", 1)[1]

    limit = f"{0.6 * total:.0f}"
    result = refused(case, "; -c ", "model.gguf", "-c", context, MOERGE_MEMORY_LIMIT=limit)
    fitting = int(re.search(r"; -c (\d+) fits", result.stderr)[1])
    assert fitting % 256 == 0 and 512 <= fitting < context
    chat(case, "model.gguf", "-c", fitting).exits(0).says(f"context of {fitting} tokens")
    refused(case, f"-c {fitting} fits", "model.gguf", "-c", fitting + 256)
    result = chat(case, "model.gguf", "-c", context, "--ignore-memory").exits(0)
    assert len(result.warnings()) == 1 and "goes on as asked (--ignore-memory)" in result.warnings()[0]


def test_measured_need_is_what_llama_takes(case):
    """The sizes of the refusal are those of the line that is shown after loading."""
    small_gguf(case, num_hidden_layers=4, max_position_embeddings=100_000)
    asked = refused(case, "needs", "model.gguf", "-c", "16384", MOERGE_MEMORY_LIMIT="10000").stderr
    _, _, cache, compute, _ = numbers(asked)[:5]
    shown = chat(case, "model.gguf", "-c", "16384", MOERGE_MEMORY_LIMIT="4G").exits(0).stderr
    taken, = numbers(re.search(r"tokens; (.*) of memory beside", shown)[1])
    assert abs(taken - cache - compute) <= 0.05 * taken, (asked, shown)


def test_automatic_type(case):
    case.model("big", model("big", **WIDE, vocab_size=4000, num_hidden_layers=6))
    chat(case, "big", MOERGE_MEMORY_LIMIT="8G").exits(0).says("makes a Q8_0")
    text = refused(case, "a Q8_0 GGUF of big needs", "big", "--type", "q8_0", MOERGE_MEMORY_LIMIT="10000").stderr
    total, weights = numbers(text)[:2]
    limit = f"{total - 0.1 * weights:.0f}"
    chat(case, "big", MOERGE_MEMORY_LIMIT=limit).exits(0).says("takes the type Q6_K: a Q8_0 file needs ", "big: Q6_K")
    again = chat(case, "big", MOERGE_MEMORY_LIMIT=limit).exits(0).says("big: Q6_K")
    assert "makes" not in again.stderr
    refused(case, "; --type q6_k makes a file of ", "big", "--type", "q8_0", MOERGE_MEMORY_LIMIT=limit)
    refused(case, "a Q3_K_M GGUF of big needs", "big", MOERGE_MEMORY_LIMIT="10000")
    chat(case, "big", MOERGE_MEMORY_LIMIT="8G").exits(0).says("big: Q8_0")


def test_a_host_that_does_not_answer(case):
    small_gguf(case)
    refused(case, "--rpc 127.0.0.1:1: Connection refused", "model.gguf", "--rpc", "127.0.0.1:1", MOERGE_MEMORY_LIMIT="10000")


def test_wrong_limit(case):
    small_gguf(case)
    refused(case, "MOERGE_MEMORY_LIMIT plenty: a size like 5B", "model.gguf", MOERGE_MEMORY_LIMIT="plenty")


def test_context_beyond_training(case):
    small_gguf(case)
    result = chat(case, "model.gguf", "-c", "512").exits(0).says("context of 64 tokens")
    assert result.warnings() == ["warning: -c 512: the model was trained with contexts of 64 tokens, "
                                 "and no conversation gets more than that"]


def test_usual_context(case):
    small_gguf(case, max_position_embeddings=100_000)
    result = chat(case, "model.gguf").exits(0).says("context of 8192 tokens;")
    assert result.warnings() == []


def test_requests_share_a_pool(case):
    """As many as fit of four usual contexts, and a request gets one of them."""
    small_gguf(case, num_hidden_layers=4, max_position_embeddings=100_000)
    four = ("--", "-np", "4")
    chat(case, "model.gguf", *four).exits(0).says("context of 8192 tokens a request, 32768 for up to 4 at once;")
    need = {context: numbers(refused(case, "needs", "model.gguf", "-c", context, *four, MOERGE_MEMORY_LIMIT="10000").stderr)[0]
            for context in (16384, 24576)}
    limit = f"{sum(need.values()) / 2:.0f}"
    chat(case, "model.gguf", *four, MOERGE_MEMORY_LIMIT=limit).exits(0).says(
        "context of 8192 tokens a request, 16384 for up to 4 at once;")
    chat(case, "model.gguf", "-c", "4096", *four).exits(0).says("context of 4096 tokens a request, 4096 for up to 4 at once;")


# ---------------------------------------------------------------------------------------------------------- chat templates


@rows({
    "syntax error": ("{% for %}",),
    "always refuses": ("{{ raise_exception('never') }}",),
    "endless": ("{% for i in range(100000) %}{% for j in range(100000) %}{% set x = i * j %}{% endfor %}{% endfor %}",),
})
def test_broken_template(case, template):
    small_gguf(case, template=template)
    start = time.monotonic()
    result = chat(case, "model.gguf").exits(0)
    warning, = result.warnings()
    assert "the model's chat template" in warning and "so this is plain completion" in warning, warning
    assert time.monotonic() - start < 8
    plain = chat(case, "model.gguf", "--plain").exits(0)
    assert plain.stdout == result.stdout and plain.warnings() == []


def test_no_template_is_a_note(case):
    small_gguf(case)
    result = chat(case, "model.gguf").exits(0).says("the model has no chat template, so this is plain completion")
    assert result.warnings() == []
