"""moerge chat: one answer, a talk through a pipe, and a talk at a terminal (a pty), with the shipped experts of 1M parameters.
How editing keys and lines of several rows look on a real screen: tests/real/chat_terminal.py."""
import atexit, contextlib, fcntl, functools, json, os, pty, re, select, shutil, signal, struct, subprocess, tempfile, termios, \
    threading, time
from pathlib import Path

from harness import TIMEOUT_S, Result, rows

FAMILY = Path(__file__).resolve().parents[2] / "examples" / "family"
MADE, MAKING = {}, threading.Lock()
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = ["-t", 1, "--temp", 0, "--", "--ignore-eos"]  # an answer that takes a second, until the context is full


def gguf(case, source):
    """A GGUF of the family, made once for all tests."""
    with MAKING:
        if not MADE:
            MADE["folder"] = Path(tempfile.mkdtemp(prefix="moerge-chat-"))
            atexit.register(shutil.rmtree, MADE["folder"], True)
        if source not in MADE:
            MADE[source] = MADE["folder"] / f"{Path(source).stem}.gguf"
            case.run("gguf", FAMILY / source, MADE[source], "-t", "q8_0").exits(0)
        return MADE[source]


def mixture(case):
    return gguf(case, "moe.yaml")


def dense(case):
    return gguf(case, "base")


def chat(case, *flags, stdin=None, model=None):
    """With a pipe for standard input, or without any."""
    command = case.command(["chat", model or mixture(case), *flags])
    done = subprocess.run(command, cwd=case.work, env=case.variables(), capture_output=True, timeout=TIMEOUT_S,
                          **({"stdin": subprocess.DEVNULL} if stdin is None else
                             {"input": stdin.encode() if isinstance(stdin, str) else stdin}))
    return Result(command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def talk(case, *lines, flags=(), temperature=0):
    """A talk of these lines, and the messages in the end."""
    path = case.path("end.json")
    path.unlink(missing_ok=True)
    result = chat(case, "--temp", temperature, "-n", 4, *flags, stdin="\n".join([*lines, "/save end.json", ""])).exits(0)
    return result, json.loads(path.read_text())["messages"]


def said(messages):
    return [message["content"] for message in messages if message["role"] == "user"]


class Terminal:
    """moerge chat at a terminal of its own."""

    def __init__(self, case, *flags, model=None, columns=80, rows=24):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave, self.text, self.seen = slave, "", 0
        self.command = case.command(["chat", model or mixture(case), *flags])
        self.process = subprocess.Popen(self.command, cwd=case.work, env={"TERM": "xterm-256color", **case.variables()},
                                        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        case.started.append(self.process)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            self.text += os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # nobody has the terminal any more
            return False
        return True

    def fail(self, reason):
        raise AssertionError(f"{reason}; the terminal showed:\n{self.text[-3000:]!r}")

    def wait(self, wanted):
        """Until this text comes, after what was waited for last. Returns what came until its end."""
        end = time.monotonic() + TIMEOUT_S
        while (found := self.text.find(wanted, self.seen)) < 0:
            if time.monotonic() > end or (not self.read(0.2) and self.process.poll() is not None and not self.read(0)):
                self.fail(f"waited for {wanted!r}")
        piece, self.seen = self.text[self.seen:found + len(wanted)], found + len(wanted)
        return piece

    def prompt(self):
        """Until it waits for a message."""
        return self.wait("\x1b[?2004h")

    def keys(self, text):
        os.write(self.master, text.encode())

    def line(self, text):
        self.keys(text + "\r")

    def ask(self, text):
        """Says it when there is a prompt, and returns all that comes until the next one."""
        self.line(text)
        return self.prompt()

    def ends(self, code):
        end = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            self.read(0.05)
            if time.monotonic() > end:
                self.fail("does not end")
        while self.read(0):
            pass
        if self.process.returncode != code:
            self.fail(f"exit code {self.process.returncode}, expected {code}")
        if termios.tcgetattr(self.slave) != self.before:
            self.fail("the terminal was not left as it was")


@contextlib.contextmanager
def terminal(case, *flags, **how):
    opened = Terminal(case, *flags, **how)
    try:
        opened.prompt()
        yield opened
    finally:
        opened.close()


def plain(text):
    return ESCAPE.sub("", text).replace("\r", "")


# ------------------------------------------------------------------------------------------------------------- arguments


def test_help(case):
    result = case.run("chat", "--help").exits(0).prints(
        "Usage: moerge chat [OPTIONS] MODEL", "examples:", "--prompt", "--system", "--system-file", "--load", "--show-routing",
        "--color", "--json", "--quiet", "--temp", "--seed", "--ctx-size", "--plain", "ctrl-C stops an answer")
    assert result.stderr == ""


@rows({
    "no arguments": ([], "MODEL is required"),
    "misspelt": (["m.gguf", "--show-rooting"], "unknown flag --show-rooting (did you mean --show-routing?)"),
    "temperature": (["m.gguf", "--temp", "-1"], "--temp: Value -1 not in range"),
    "share": (["m.gguf", "--top-p", "1.5"], "--top-p: Value 1.5 not in range"),
    "context": (["m.gguf", "-c", "3"], "--ctx-size: Value 3 not in range"),
    "colour": (["m.gguf", "--color", "blue"], "--color: blue not in {auto,always,never}"),
    "json alone": (["m.gguf", "--json"], "--json goes with --prompt"),
    "two system messages": (["m.gguf", "--system", "a", "--system-file", "b"], "--system and --system-file exclude each other"),
    "no system file": (["m.gguf", "--system-file", "absent"], '--system-file "absent": there is no such file'),
    "no talk": (["m.gguf", "--load", "absent.json"], '--load "absent.json": there is no such file'),
    "empty message": (["m.gguf", "-p", " \n"], "--prompt: the message is empty"),
})
def test_usage_error(case, words, sentence):
    result = case.run("chat", *words).exits(2).says("moerge: ", sentence)
    assert result.stdout == ""


@rows({"absent": (None, "m.gguf"), "no GGUF": (b"once upon a time", 'm.gguf: no GGUF file: it does not begin with "GGUF"')})
def test_model_that_is_none(case, content, sentence):
    if content is not None:
        case.write("m.gguf", content)
    result = case.run("chat", "m.gguf", "-p", "hi").says("moerge: ", sentence)
    assert result.code in (1, 2) and result.stdout == ""


def test_flags_for_llama(case):
    chat(case, "-p", "hi", "--", "--bogus-flag").exits(2).says("--bogus-flag", "llama.cpp does not take these flags")


# ------------------------------------------------------------------------------------------------------------ one answer


def test_answer_alone_on_stdout(case):
    result = chat(case, "-p", "def read(", "--temp", 0, "-n", 12).exits(0).says(
        "the model has no chat template", "prompt: ", "; answer: 12 tokens", "; cut off at 12 tokens, as -n says")
    whole = json.loads(chat(case, "-p", "def read(", "--temp", 0, "-n", 12, "--json").exits(0).stdout)
    assert result.stdout.rstrip("\n") == whole["text"].rstrip("\n") and whole["text"]
    assert whole["tokens"] == 12 and whole["prompt_tokens"] > 2 and whole["finish_reason"] == "length"
    assert whole["reasoning"] == "" and whole["tokens_per_second"] > 0 and "routing" not in whole
    quiet = chat(case, "-p", "def read(", "--temp", 0, "-n", 12, "-q").exits(0)
    assert quiet.stdout == result.stdout and quiet.stderr.splitlines() == quiet.warnings()


def test_message_from_stdin(case):
    words = ("--temp", 0, "-n", 12, "-q")
    assert chat(case, "-p", "-", *words, stdin="two\nlines\n").exits(0).stdout == \
        chat(case, "-p", "two\nlines", *words).exits(0).stdout
    chat(case, "-p", "-", stdin=b"caf\xe9").exits(1).says("--prompt: no UTF-8 text: byte 3 is 0xe9")
    chat(case, "-p", "-", stdin="").exits(2).says("--prompt: the message is empty")


def test_same_seed_same_answer(case):
    answers = [chat(case, "-p", "class Queue", "-n", 20, "-q", "-s", seed).exits(0).stdout for seed in (7, 7, 8)]
    assert answers[0] == answers[1] != answers[2]


def test_message_longer_than_the_context(case):
    chat(case, "-p", "word " * 400, "-c", 256).exits(1).says("the talk with this message has ", "the context 256", "-c N")


THINKING = """{%- for m in messages -%}{{- '[' + m['role'] + ']' -}}{%- if m['role'] == 'assistant' and m.reasoning_content is defined
and m.reasoning_content -%}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}{{- m['content'] + '\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '[assistant]' -}}{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}{%- else -%}{{- '<think>\\n' -}}{%- endif -%}{%- endif -%}"""


def test_thought(case):
    """A template whose answers begin with a thought: it is no answer."""
    words = ["--chat-template-file", case.write("think.jinja", THINKING), "-p", "def read(", "--temp", 0, "-n", 9]
    answer = json.loads(chat(case, *words, "--json", "--show-routing").exits(0).stdout)
    assert answer["text"] == "" and answer["reasoning"] and answer["routing"]["shares"]["tokens"] == 8, answer
    result = chat(case, *words, "--color", "always").exits(0)
    thought = result.stderr.partition(" s\n")[2]  # after "loaded in 0.02 s"
    assert result.stdout == "" and plain(thought).startswith(answer["reasoning"].rstrip("\n")), result
    assert thought.startswith("\x1b[2m")
    quiet = chat(case, *words, "-q").exits(0)
    assert quiet.stdout == quiet.stderr == ""


def test_context_that_fills_up(case):
    result = chat(case, "-p", "word " * 40, "-c", 256, "--temp", 0, "--", "--ignore-eos").exits(0)
    result.says("; cut off: the context of 256 tokens is full (/reset begins anew, -c N makes it larger)")


def test_routing_as_json(case):
    answer = json.loads(chat(case, "-p", "def read(", "--temp", 0, "-n", 9, "--json", "--show-routing").exits(0).stdout)
    routing = answer["routing"]
    assert routing["experts"] == 4 and routing["experts_per_token"] == 2
    assert [token["index"] for token in routing["tokens"]] == list(range(8))  # the last one is never read
    for token in routing["tokens"]:
        for experts, weights in zip(token["experts"], token["weights"], strict=True):
            assert len(set(experts)) == 2 and abs(sum(weights) - 1) < 0.002
    shares = routing["shares"]
    assert shares["tokens"] == sum(shares["led"]) == 8 and abs(sum(shares["weight"]) - 1) < 0.001
    expected = [0.0] * 4
    for token in routing["tokens"]:
        for experts, weights in zip(token["experts"], token["weights"]):
            for expert, weight in zip(experts, weights):
                expected[expert] += weight / sum(len(t["experts"]) for t in routing["tokens"])
    assert all(abs(a - b) < 0.002 for a, b in zip(expected, shares["weight"])), (expected, shares["weight"])


def test_routing_in_colours(case):
    words = ("-p", "def read(", "--temp", 0, "-n", 9, "--show-routing", "--color")
    coloured, without = chat(case, *words, "always").exits(0), chat(case, *words, "never").exits(0)
    assert "\x1b" not in without.stdout + without.stderr
    assert plain(coloured.stdout) == without.stdout
    colours = re.findall(r"\x1b\[38;5;(\d+)m", coloured.stdout)
    assert len(colours) in (7, 8) and set(colours) <= {"172", "93", "37", "127"}, colours
    coloured.says("\x1b[38;5;172m0 code     \x1b[39m", "tokens of its colour", "routing of 8 tokens in 4 layers")
    without.says("by expert: [", "tokens it leads")
    marked = re.search(r"by expert: (.*?)\nprompt: ", without.stderr, re.S).group(1)
    assert re.sub(r"\[[0-3?]\]", "", marked) == without.stdout.rstrip("\n")


def test_routing_of_a_dense_model(case):
    result = chat(case, "-p", "def read(", "-n", 3, "--show-routing", model=dense(case)).exits(0)
    result.says("warning: base has no experts, so --show-routing has nothing to show")
    assert "by expert" not in result.stderr and result.stdout


# --------------------------------------------------------------------------------------------------------- through a pipe


def test_pipe(case):
    result, messages = talk(case, "def read(", "  ", "import")
    assert said(messages) == ["def read(", "import"] and [m["role"] for m in messages] == ["user", "assistant"] * 2
    assert result.stdout == "".join(m["content"].rstrip("\n") + "\n" for m in messages if m["role"] == "assistant")
    assert "\x1b" not in result.stdout + result.stderr
    result.says("mixture of 4 experts, 2 per token, 4 layers", "context of 1024 tokens")


def test_messages_of_several_lines(case):
    _, messages = talk(case, "one \\", "two \\", "three", '"""', "a", "", "/help", '"""', "//slash", '"""', '"""')
    assert said(messages)[:3] == ["one \ntwo \nthree", "a\n\n/help", "/slash"], messages
    _, messages = talk(case, flags=["--load", case.write("talk.json", json.dumps(messages))])
    assert said(messages)[:3] == ["one \ntwo \nthree", "a\n\n/help", "/slash"]
    result = chat(case, "-n", 3, "-q", stdin="def\\\n f(").exits(0)  # without a line end
    assert result.stdout


def test_commands(case):
    result, messages = talk(case, "/help", "/system", "/system Be brief.", "/system", "first", "/reset", "second", "/hlep",
                            "/exit now", "/save", "/load  ", "/routing", "/nothinglikethis")
    assert messages[0] == {"role": "system", "content": "Be brief."} and said(messages) == ["second"]
    result.says("/regen          answer the last message again", "no system message", "the system message is set",
                "system message: Be brief.", "the talk begins anew", "there is no command /hlep (did you mean /help?)",
                '/exit stands alone, found "now"', "/save needs the name of a file", "/load needs the name of a file",
                "routing is shown when the program is started with --show-routing",
                "there is no command /nothinglikethis; /help lists them")
    _, messages = talk(case, '/system ""', "x", flags=["--system", "Be kind."])
    assert [m["role"] for m in messages] == ["user", "assistant"]
    for leave in ("/exit", "/quit"):
        assert chat(case, "-q", stdin=f"{leave}\nmore\n").exits(0).stdout == ""


def test_answer_again(case):
    result, messages = talk(case, "/regen", "def read(", "/regen")
    assert len(messages) == 2 and result.stdout.count(messages[1]["content"].strip()) == 2  # at temperature 0
    result.says("there is no message yet that could be answered again")
    result, messages = talk(case, "def", "/regen", flags=["--top-k", 0, "--min-p", 0, "--top-p", 1], temperature=9)
    assert len(messages) == 2 and not result.stdout.startswith(messages[1]["content"])  # one of 1024^4 others
    talk(case, "def", "/regen", flags=["-s", 3])[0].says("the seed was given, so the same answer comes again")


def test_routing_so_far(case):
    result, _ = talk(case, "def read(", "import os", "/routing", flags=["--show-routing"])
    result.says("routing of 3 tokens", "routing of 6 tokens", "layer   0: ", "layer   3: ")


@rows({
    "no JSON": (b"{", "talk.json"),
    "no list": (b'{"messages": 5}', "talk.json: no talk"),
    "a number": (b"[5]", "talk.json: message 1 is no object"),
    "no role": (b'[{"content": "a"}]', 'message 1: its "role" is ""'),
    "a tool": (b'[{"role": "tool", "content": "a"}]', 'message 1: its "role" is "tool", expected system, user or assistant'),
    "role of another type": (b'[{"role": [], "content": "a"}]', "message 1"),
    "no content": (b'[{"role": "user", "content": "a"}, {"role": "user"}]', 'message 2: "content" is missing'),
    "content of another type": (b'[{"role": "user", "content": {"a": 1}}]', '"content" is no text'),
    "an image": (b'[{"role": "user", "content": [{"type": "image_url"}]}]', '"content" is no text'),
    "no UTF-8": (b'["\xff"]', "talk.json"),
    "deep": (b"[" * 100_000, "talk.json"),
    "a GGUF": (b"GGUF\x03\0\0\0", "talk.json"),
})
def test_file_that_is_no_talk(case, content, sentence):
    case.write("talk.json", content)
    result, messages = talk(case, "def", "/load talk.json", "/save talk.json")
    result.says(sentence, '"talk.json" exists and is no talk, so it is not replaced')
    assert said(messages) == ["def"] and case.path("talk.json").read_bytes() == content
    chat(case, "--load", "talk.json", "-p", "x").exits(1).says("moerge: --load ", sentence)


def test_save_and_load(case):
    saved = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é\x1b[31m\n\"x\""},
             {"role": "assistant", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]}]
    case.write("old.json", json.dumps({"messages": saved, "more": 1}))
    result, messages = talk(case, "dropped", "/load absent.json", "/load old.json", "/save old.json", "/save here/new.json",
                            "/save ~/new.json", "/load .")
    assert messages == saved[:2] + [{"role": "assistant", "content": "one two"}]
    assert json.loads(case.path("old.json").read_text()) == {"messages": messages}
    assert json.loads((case.folder / "new.json").read_text()) == {"messages": messages}
    result.says('"absent.json": there is no such file', "3 messages are loaded from old.json", "No such file or directory")
    assert not list(case.folder.rglob(".*partial*"))
    case.write("open.json", json.dumps([{"role": "user", "content": "def read("}]))
    result, messages = talk(case, "/load open.json", "/regen")
    result.says("the last is not answered yet, /regen does it")
    assert len(messages) == 2


def test_message_that_does_not_fit_is_left_out(case):
    result, messages = talk(case, "def read(", "word " * 400, "import os", flags=["-c", 256])
    assert said(messages) == ["def read(", "import os"]
    result.says("the context 256; /reset begins anew, or start with -c N for a larger context (the message is left out)")


def test_message_that_is_not_utf8(case):
    result = chat(case, "-n", 3, stdin=b"caf\xe9\nplain\n").exits(0)
    assert len(result.warnings()) == 1 and "no UTF-8 text, it is left out" in result.warnings()[0]


# ----------------------------------------------------------------------------------------------------------- at a terminal


def test_talk_at_a_terminal(case):
    with terminal(case, "--temp", 0, "-n", 9) as t:
        assert "mixture of 4 experts, 2 per token, 4 layers" in t.text and "/help lists the commands, ctrl-C stops" in t.text
        expected = chat(case, "-p", "def read(", "--temp", 0, "-n", 9, "-q").exits(0).stdout.rstrip("\n")
        shown = plain(t.ask("def read("))
        assert f"def read(\n{expected}\n" in shown and "; answer: 9 tokens" in shown, shown
        t.line("one \\")
        t.prompt()
        t.ask("two")
        t.ask('"""')
        t.ask("a")
        t.ask("")
        t.ask("b")
        t.ask('"""')
        t.ask("/save talk.json")
        assert said(json.loads(case.path("talk.json").read_text())["messages"]) == ["def read(", "one \ntwo", "a\n\nb"]
        t.ask("/reset")
        assert "3 messages are loaded" not in t.text and "6 messages are loaded" in t.ask("/load talk.json")
        t.keys("\x04")
        t.ends(0)


LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (f"\x1b[{code}" for code in ("D", "C", "A", "B", "H", "F", "3~"))


@rows({
    "backspace": ("abx\x7fc", "abc"),
    "backspace over letters of several bytes": ("aé漢🙂\x7f\x7fb", "aéb"),
    "left and insert": (f"ac{LEFT}b", "abc"),
    "left over letters of several bytes": (f"é漢{LEFT}{LEFT}a{RIGHT}b", "aéb漢"),
    "delete": (f"abxc{LEFT}{LEFT}{DELETE}", "abc"),
    "home and end": (f"b{HOME}a{END}c", "abc"),
    "other home and end": ("b\x01a\x05c", "abc"),
    "keys of another mode": ("b\x1bOHa\x1bOFc", "abc"),
    "to the end": (f"abcd{LEFT}\x0b", "abc"),
    "to the beginning": (f"xyabc{LEFT * 3}\x15", "abc"),
    "a word": ("one two \x17three", "one three"),
    "words": (f"one two\x1b[1;5D{LEFT}!", "one! two"),
    "keys that mean nothing": ("a\x1b[15~b\x1b[Zc\x00", "abc"),
    "beyond both ends": (f"{LEFT}\x7f{RIGHT}{DELETE}b{LEFT * 3}a", "ab"),
    "history": (f"{UP}{UP}{DOWN}{UP} again", "earlier again"),
    "beyond history": (f"new{UP * 9}{DOWN * 9}er", "newer"),
    "pasted": ("\x1b[200~two\rlines\x1b[201~!", "two\nlines!"),
    "pasted keys do nothing": ("\x1b[200~a\x1b[31m\x04\x1b[201~b", "a\\x1b[31m\\x04b"),
    "slash and control-d inside": ("a/xb/\x1b[D\x1b[D\x1b[D\x04", "a/b/"),
    "long": ("word " * 60 + f"{LEFT * 150}{RIGHT * 150}end", "word " * 60 + "end"),
})
def test_editing(case, keys, expected):
    case.write("earlier.json", json.dumps([{"role": "user", "content": "x"}]))
    with terminal(case, "--temp", 0, "-n", 1, "-q", columns=40) as t:
        t.ask("earlier" if UP in keys else "other")
        for command in ("/reset",):
            t.ask(command) if UP not in keys else None
        t.ask(keys)
        t.ask("/save talk.json")
        assert said(json.loads(case.path("talk.json").read_text())["messages"])[-1] == expected
        t.keys("\x04")
        t.ends(0)


def test_interrupts(case):
    with terminal(case, *LONG) as t:
        t.line("def read(")
        t.wait("def")
        t.wait("\r\n")
        while len(t.text) < t.seen + 30:
            t.read(1)
        t.keys("\x03")
        shown = t.prompt()
        assert "stopped after " in shown, shown
        t.ask("/save talk.json")
        messages = json.loads(case.path("talk.json").read_text())["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] and len(messages[1]["content"]) > 10
        t.keys("something")
        t.wait("something")
        t.keys("\x03")  # what is being written goes
        t.prompt()
        t.ask('"""')
        t.keys("\x03")  # a block that has only begun as well
        t.prompt()
        t.keys("\x03")
        t.ends(130)


@rows({"TERM": (signal.SIGTERM,), "HUP": (signal.SIGHUP,), "INT": (signal.SIGINT,)})
def test_signals_leave_the_terminal_as_it_was(case, which):
    with terminal(case, "-n", 4) as t:
        t.process.send_signal(which)
        t.ends(130)
    if which == signal.SIGINT:
        return
    with terminal(case, *LONG) as t:
        t.line("def read(")
        t.wait("\r\n")
        while len(t.text) < t.seen + 30:
            t.read(1)
        t.process.send_signal(which)
        t.ends(130)


def test_interrupted_answer_of_one_message(case):
    command = case.command(["chat", mixture(case), "-p", "def read(", *LONG])
    run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    case.started.append(run)
    first = os.read(run.stdout.fileno(), 1)
    run.send_signal(signal.SIGINT)
    out, errors = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 130 and first and b"stopped after " in errors, (run.returncode, errors)


def test_second_interrupt_ends_it(case):
    """Whether the answer has stopped by then or not."""
    with terminal(case, *LONG) as t:
        t.line("def read(")
        t.wait("\r\n")
        while len(t.text) < t.seen + 30:
            t.read(1)
        t.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
        t.process.send_signal(signal.SIGINT)
        t.ends(130)


@rows({
    "as it is": ({}, [], True),
    "NO_COLOR": ({"NO_COLOR": "1"}, [], False),
    "never": ({}, ["--color", "never"], False),
    "always": ({"NO_COLOR": "1"}, ["--color", "always"], True),
    "a terminal without": ({"TERM": "dumb"}, [], False),
})
def test_colours_at_a_terminal(case, variables, flags, coloured):
    case.environment.update(variables)
    with terminal(case, "--show-routing", "--temp", 0, "-n", 9, *flags) as t:
        shown = t.ask("def read(")
        answer = plain(shown)
        assert "routing of 8 tokens in 4 layers" in answer and "0 code" in answer if coloured else "by expert: [" in answer
        assert bool(re.search(r"\x1b\[[0-9;]*m", shown)) == coloured, shown
        if coloured:
            assert re.search(r"\x1b\[38;5;(172|93|37|127)m", shown.split("prompt: ")[0])
        t.ask("/routing")
        t.line("/exit")
        t.ends(0)


def test_output_elsewhere(case):
    """Standard input is a terminal, the answers go to a file."""
    with open(case.path("answers"), "wb") as out:
        master, slave = pty.openpty()
        command = case.command(["chat", mixture(case), "--temp", 0, "-n", 4, "-q"])
        run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=slave, stdout=out, stderr=slave)
        case.started.append(run)
        shown = b""
        for keys in (b"def read(\r", b"\x04"):
            while b"\x1b[?2004h" not in shown:
                shown += os.read(master, 65536)
            shown = b""
            os.write(master, keys)
        run.wait(TIMEOUT_S)
        os.close(master)
        os.close(slave)
    assert run.returncode == 0
    text = case.path("answers").read_text()
    assert text and "\x1b" not in text and "> " not in text
