#!/usr/bin/env python3
"""Talks with two models in a real terminal (tmux) and checks what the screen shows: answers, editing, ctrl-C, colours.

usage: chat_terminal.py MOERGE_BINARY DENSE.gguf MIXTURE.gguf OUT_FOLDER

DENSE is a chat model (SmolLM2-135M-Instruct, say), MIXTURE any mixture of experts (that of examples/family). Writes
OUT_FOLDER/dense.txt and mixture.txt: the screens as plain text. Exits 0 when all was as expected.
"""
import itertools, os, re, shlex, subprocess, sys, tempfile, time
from pathlib import Path

WIDTH, HEIGHT, PATIENCE_S = 80, 40, 90
COLOUR = re.compile(r"\x1b\[[0-9;]*38;5;(\d+)m")
NUMBER = itertools.count()
PALETTE = {"172", "93", "37", "127", "105", "35", "58", "59"}


class Screen:
    def __init__(self, folder, command, variables=""):
        self.socket = ["tmux", "-L", f"moerge-chat-{os.getpid()}-{next(NUMBER)}", "-f", "/dev/null"]
        self.tmux("new-session", "-d", "-s", "chat", "-x", str(WIDTH), "-y", str(HEIGHT), "-c", str(folder),
                  f"env {variables} {shlex.join(map(str, command))}; echo left with $?; sleep 1000")
        self.tmux("set-option", "-g", "history-limit", "5000")

    def tmux(self, *words):
        return subprocess.run([*self.socket, *words], capture_output=True, text=True, check=True).stdout

    def close(self):
        self.tmux("kill-server")

    def shown(self, *flags):
        text = self.tmux("capture-pane", "-p", "-t", "chat", *flags)
        return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")

    def keys(self, *keys):
        self.tmux("send-keys", "-t", "chat", *keys)

    def type(self, text):
        self.tmux("send-keys", "-t", "chat", "-l", text)

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition(shown := self.shown("-J", "-S", "-")):
            if time.monotonic() > end:
                sys.exit(f"waited for {what}; the screen shows:\n{shown}")
            time.sleep(0.05)
        return shown

    def waits_for_message(self, answers):
        """After so many answers there is an empty line to write on."""
        return self.wait(lambda s: s.count("prompt: ") + s.count("stopped after ") >= answers and s.endswith("\n>"),
                         f"the end of answer {answers}")

    def ask(self, text, answers):
        self.type(text)
        self.keys("Enter")
        return self.waits_for_message(answers)


def check(condition, what, screen):
    if not condition:
        sys.exit(f"{what}; the screen shows:\n{screen.shown('-e')}")
    print(f"as expected: {what}")


def dense(binary, model, out, folder):
    s = Screen(folder, [binary, "chat", model, "--temp", "0", "-n", "48"])
    try:
        s.wait(lambda text: text.endswith("\n>"), "the start")
        check("/help lists the commands, ctrl-C stops an answer, ctrl-D leaves" in s.shown(), "the start says how it goes", s)
        s.ask("Say hello to a friend.", 1)
        s.ask("/system Answer in one sentence.", 1)

        # A line of several rows, corrected in its first one.
        s.type("Wat is a river? " + "Please take your time, and think of water, hills and the sea. " * 2)
        s.keys("Home", "Right")
        s.type("h")
        s.wait(lambda text: "> What is a river? Please" in text, "the corrected line")
        rows = s.shown().splitlines()
        begin = max(i for i, row in enumerate(rows) if row.startswith("> What is a river?"))
        check(len(rows) == begin + 2 and rows[-1].endswith("and the sea."), "a long line takes two rows, once", s)
        cursor = s.tmux("display-message", "-p", "-t", "chat", "#{cursor_x} #{cursor_y}").split()
        check(cursor == ["4", str(begin)], "the cursor stands behind the correction", s)
        s.keys("C-u")
        s.wait(lambda text: "\n> at is a river?" in text, "the rest of the line")
        s.keys("C-k")
        s.wait(lambda text: text.endswith("\n>"), "an empty line")

        s.keys("Up", "Up")
        s.wait(lambda text: text.endswith("> Say hello to a friend."), "the history")
        s.keys("C-u")
        for line in ('"""', "One line,", "and another.", '"""'):
            s.type(line)
            s.keys("Enter")
        s.waits_for_message(2)

        s.type("Write a long story about a ship.")
        s.keys("Enter")
        before = s.wait(lambda text: len(text.split("about a ship.")[-1].strip()) > 20, "the story to begin")
        s.keys("C-c")
        after = s.waits_for_message(3)
        check("stopped after" in after.split("about a ship.")[-1], "ctrl-C stops an answer", s)
        check(before.split("about a ship.")[-1].strip()[:20] in after, "what was answered stays", s)
        s.ask("/save talk.json", 3)
        check((folder / "talk.json").exists(), "/save writes", s)
        s.keys("C-c")
        text = s.wait(lambda text: "left with 130" in text, "the end")
        check(True, "ctrl-C at an empty line leaves with 130", s)
        (out / "dense.txt").write_text(text + "\n")
    finally:
        s.close()


def mixture(binary, model, out, folder):
    command = [binary, "chat", model, "--show-routing", "--temp", "0", "-n", "40"]
    s = Screen(folder, command)
    try:
        s.wait(lambda text: text.endswith("\n>"), "the start")
        s.ask("def read(path):", 1)
        s.ask("Once upon a time there was a", 2)
        s.ask("/routing", 2)
        coloured = s.shown("-e", "-S", "-")
        answer = coloured.split("def read(path):")[1].split("prompt: ")[0]
        colours = COLOUR.findall(answer)
        check(colours and set(colours) <= PALETTE, "the answer has colours of experts", s)
        table = coloured.split("tokens of its colour")[1].split("\n")[1:5]
        check(all(COLOUR.search(row) and " %" in row for row in table), "the table names experts in their colours", s)
        check("layer   0:" in coloured, "/routing shows the layers", s)
        s.keys("C-d")
        text = s.wait(lambda text: "left with 0" in text, "the end")
        check(True, "ctrl-D leaves with 0", s)
        (out / "mixture.txt").write_text(text + "\n")
    finally:
        s.close()

    s = Screen(folder, command, "NO_COLOR=1")
    try:
        s.wait(lambda text: text.endswith("\n>"), "the start")
        shown = s.ask("def read(path):", 1)
        check("by expert: [" in shown and not COLOUR.search(s.shown("-e")), "NO_COLOR: numbers in place of colours", s)
        (out / "mixture_no_color.txt").write_text(shown + "\n")
    finally:
        s.close()


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    binary, chat_model, moe, out = (Path(word).resolve() for word in sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moerge-chat-") as folder:
        dense(binary, chat_model, out, Path(folder))
        mixture(binary, moe, out, Path(folder))


if __name__ == "__main__":
    main()
