"""What a test of the command line needs: a folder of its own, the program, and judgements of what it did.

A test is a function test_WHAT_IT_SHOWS(case) in a test_*.py beside this file. `case` is a Case: the test puts models and
a moe.yaml into its folder (what it leaves out is filled in: models base, one and two that fit together, and a YAML that
makes a mixture of them), then says either

    case.refused(2, "a sentence of the message")      exit code, message, and that nothing at all was left behind
    out = case.built("--layout", "fused")             success, no warning, and OUT ready to be looked at

A table of similar tests is one function under @rows({"name of a row": (arguments, ...), ...}).
"""
import dataclasses, json, os, shutil, subprocess, tempfile, time
from pathlib import Path

from tiny_models import read_checkpoint, tiny_model

TIMEOUT_S = 60

MOE_YAML = """\
base_model: base
gate_mode: {gate_mode}
{top}experts:
  - source_model: one
    positive_prompts: ["def f(x):", "import os"]
  - source_model: two
    positive_prompts: ["2 + 2 =", "prove that"]
"""


class Skipped(Exception):
    """This machine cannot show it; the reason is printed."""


def rows(table):
    """Turns one test function into a test for every row of a table."""
    def decorate(function):
        function.rows = table
        return function
    return decorate


# ----------------------------------------------------------------------------------------------------------- one program


@dataclasses.dataclass
class Result:
    command: list
    code: int  # negative: the signal that ended it
    stdout: str
    stderr: str

    def fail(self, reason):
        shown = "\n".join("    " + line[:500] for line in (self.stderr + self.stdout).splitlines()[:30])
        words = " ".join(str(word) for word in self.command[1:])
        raise AssertionError(f"{reason}\n  moerge {words} -> exit code {self.code}\n{shown}")

    def exits(self, code):
        if self.code != code:
            self.fail(f"exit code {self.code}, expected {code}")
        if "internal error" in self.stderr:
            self.fail("an internal error")
        return self

    def says(self, *sentences):
        for sentence in sentences:
            if sentence not in self.stderr:
                self.fail(f"stderr lacks: {sentence}")
        return self

    def prints(self, *sentences):
        for sentence in sentences:
            if sentence not in self.stdout:
                self.fail(f"stdout lacks: {sentence}")
        return self

    def warnings(self):
        return [line for line in self.stderr.splitlines() if line.startswith("warning: ")]


class Output:
    """A finished output folder."""

    def __init__(self, folder, result):
        self.folder, self.result = folder, result

    @property
    def tensors(self):
        return read_checkpoint(self.folder)

    @property
    def config(self):
        return json.loads((self.folder / "config.json").read_text())

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def content(self):
        return {name: (self.folder / name).read_bytes() for name in self.files()}

    def read(self, name):
        return (self.folder / name).read_bytes()


# --------------------------------------------------------------------------------------------------------------- one test


class Case:
    def __init__(self, binary):
        self.binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="moerge-cli-")).resolve()
        self.work = self.folder / "here"  # where the program runs; the rest of the folder is its home
        self.work.mkdir()
        self.environment = {"HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}
        self.mounts, self.started = [], []

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def uses(self, hub, **variables):
        """From now on the program asks this Hub (tests/hub/fakehub.py); without it asks nobody."""
        self.environment.pop("HF_HUB_OFFLINE", None)
        self.environment |= {"HF_ENDPOINT": hub.url, **variables}

    # ------------------------------------------------------------------------------------------------- what there is

    def path(self, name):
        return self.work / name

    def write(self, name, content):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def model(self, name, model=None, shards=1, **config):
        """Writes a model folder: the given Model, or a tiny one with these changes in its config.json. The name of a model
        also decides its random weights."""
        model = model or tiny_model(Path(name).name, **config)
        model.write(self.path(name), shards)
        return model

    def models(self, *names, **config):
        return [self.model(name, **config) for name in names]

    def yaml(self, gate_mode="random", top="", text=None, file="moe.yaml"):
        """moe.yaml: the usual two experts with some lines at the top, or a text of its own."""
        return self.write(file, MOE_YAML.format(gate_mode=gate_mode, top=top) if text is None else text)

    def fill_in(self):
        for name in ("base", "one", "two"):
            if not os.path.lexists(self.path(name)):
                self.model(name)
        if not os.path.lexists(self.path("moe.yaml")):
            self.yaml()

    def slow_models(self):
        """Models and a slow.yaml that take about a second on one thread (noise on some megabytes), and the usual moe.yaml,
        which is quick with the same models."""
        for name in ("base", "one", "two"):
            self.model(name, num_hidden_layers=1, intermediate_size=20_000, hidden_size=64)
        self.yaml()
        experts = "  - {source_model: one, noise_scale: 0.1}\n  - {source_model: two, noise_scale: 0.1}\n" * 4
        self.yaml(text="base_model: base\ngate_mode: random\nexperts:\n" + experts, file="slow.yaml")

    def mount(self, name, what, *arguments):
        """A file system at this place, where this machine lets us have one."""
        folder = self.path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0 or not shutil.which("mount"):
            raise Skipped(f"mounting {what} needs root")
        if (done := subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)).returncode != 0:
            raise Skipped(f"cannot mount {what}: {done.stderr.strip()}")
        self.mounts.insert(0, folder)
        return folder

    def tmpfs(self, name, size):
        """A small file system of its own."""
        return self.mount(name, "a tmpfs", "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def disk(self, name, kind, megabytes=400):
        """The same of a kind that keeps its blocks in a file: xfs, btrfs, ext4."""
        if not (make := shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")):
            raise Skipped(f"mkfs.{kind} is not there")
        image = self.folder / f"{name}.{kind}"
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([make, "-q", image], check=True, capture_output=True)
        return self.mount(name, f"an image of {kind}", "-t", kind, "-o", "loop", image)

    def snapshot(self):
        """Everything in the folder, with size and time of change."""
        found = {}
        for path in self.folder.rglob("*"):
            stat = path.lstat()
            found[str(path.relative_to(self.folder))] = (stat.st_mode, stat.st_size, 0 if path.is_dir() else stat.st_mtime_ns)
        return found

    # --------------------------------------------------------------------------------------------------- running it

    def command(self, arguments, program=None, limit=None):
        command = [str(program or self.binary), *map(str, arguments)]
        if limit:  # no file may grow beyond so many blocks of 512 bytes
            command = ["sh", "-c", f"trap '' XFSZ; ulimit -f {limit}; exec \"$@\"", "sh", *command]
        return command

    def variables(self):
        ours = {key: value for key, value in os.environ.items()
                if not key.startswith(("HF_", "HUGGINGFACE_", "XDG_", "LC_")) and key != "LANG"}
        return {**ours, "OMP_WAIT_POLICY": "PASSIVE", **self.environment}

    def run(self, *arguments, program=None, limit=None, cwd=None):
        """moerge ARGUMENTS in the case's folder, with a home and a Hugging Face cache that are empty."""
        command = self.command(arguments, program, limit)
        done = subprocess.run(command, cwd=cwd or self.work, env=self.variables(), stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=TIMEOUT_S)
        result = Result(command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if done.returncode < 0 or done.returncode > 130:
            result.fail("the program crashed")
        return result

    def start_slow(self, *flags, stderr=subprocess.PIPE):
        """A build of slow.yaml in the background, once it has begun to write."""
        command = self.command(["moe", "slow.yaml", "out", "-j", "1", *flags])
        run = subprocess.Popen(command, cwd=self.work, env=self.variables(), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=stderr)
        self.started.append(run)
        end = time.monotonic() + TIMEOUT_S
        while not (self.partial() / "model.safetensors").exists():
            if run.poll() is not None or time.monotonic() > end:
                run.kill()
                raise AssertionError(f"did not begin to write: {run.communicate()}")
            time.sleep(0.001)
        return run

    def moe(self, *flags, config="moe.yaml", out="out", **how):
        self.fill_in()
        return self.run("moe", config, out, *flags, **how)

    def partial(self, out="out"):
        path = self.path(out)
        return path.parent / f".{path.name}.moerge-partial"

    # --------------------------------------------------------------------------------------------------- judging it

    def refused(self, code, *sentences, flags=(), **how):
        """The run ends with this exit code and says these sentences; it leaves every file and folder as it was."""
        self.fill_in()
        before = self.snapshot()
        result = self.moe(*flags, **how).exits(code).says("moerge: ", *sentences)
        if result.stdout:
            result.fail("a refusal belongs on stderr, stdout is not empty")
        after = self.snapshot()
        if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
            result.fail(f"the refused run left something behind: {changed}")
        return result

    def built(self, *flags, warning=None, out="out", **how):
        """The run succeeds and OUT is there; with `warning` exactly one warning with these words, else none."""
        result = self.moe(*flags, out=out, **how).exits(0)
        warnings = result.warnings()
        if warning is None and warnings:
            result.fail("a warning that was not expected")
        if warning is not None and (len(warnings) != 1 or warning not in warnings[0]):
            result.fail(f"expected one warning: {warning}")
        if not (self.path(out) / "config.json").exists():
            result.fail("exit code 0, but OUT holds no config.json")
        if self.partial(out).exists():
            result.fail("the partial folder is still there")
        return Output(self.path(out), result)

    def plan(self, *flags, **how):
        """The JSON of --dry-run --json."""
        return json.loads(self.moe("--dry-run", "--json", *flags, **how).exits(0).stdout)
