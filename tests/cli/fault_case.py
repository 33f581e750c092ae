"""Faults on demand: a command that is run again and again while tests/faults/inject.cpp makes its calls fail.

    build = Build(case)                         # moerge moe moe.yaml disk/out -j1, in several shards
    build.expected                              # OUT of an undisturbed run: {file name: bytes}
    run = build.run("12:errno=28")              # its 12th call below disk/ finds a full disk; run.calls are all of them
    build.must_finish()                         # the same command without faults: OUT is what it should be, and alone

Calls are counted below disk/ only (or below the folders given as `below`). What can be told to a call: inject.cpp.
"""
import dataclasses, json, os, re, shutil, signal, struct, subprocess, time
from pathlib import Path

from harness import Result, TIMEOUT_S

JOURNAL = ".moerge-journal"
SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors$")
FAULT_YAML = """\
base_model: base
gate_mode: random
experts:
  - source_model: one
  - {source_model: two, noise_scale: 0.1}
"""


def is_sanitized(case):
    program = Path(case.binary).read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


def preload(case):
    """LD_PRELOAD for the library of faults; a sanitizer's runtime insists on being first."""
    library = Path(case.binary).parent / "moerge_faults.so"
    if not library.exists():
        raise AssertionError(f"{library} is missing: build all targets, or moerge_faults")
    first = ""
    if is_sanitized(case):
        listed = subprocess.run(["ldd", case.binary], capture_output=True, text=True, check=True).stdout
        first = "".join(path + ":" for path in re.findall(r"=> (\S*/lib[at]san\.so\S*)", listed))
    return f"{first}{library}"


# --------------------------------------------------------------------------------------------------------------- the trace


@dataclasses.dataclass
class Call:
    number: int
    name: str
    path: str
    inode: int
    offset: int
    count: int       # bytes asked for; None where a call moves none
    detail: str      # flags of an open; the other path of a rename
    begin: int       # line of the trace where it began
    end: int = None  # and ended; None: the process died in it
    result: int = None
    error: int = None

    @property
    def done(self):
        return self.end is not None and self.error == 0

    @property
    def file(self):
        return Path(self.path).name

    @property
    def creates(self):
        return self.name == "open" and bool(int(self.detail, 16) & os.O_CREAT)

    @property
    def is_write(self):
        return self.name in ("write", "pwrite", "copy_file_range", "sendfile")

    @property
    def is_sync(self):
        return self.name in ("fsync", "fdatasync", "syncfs")

    @property
    def is_rename(self):
        return self.name in ("rename", "exchange")


def read_trace(path):
    calls = {}
    for i, line in enumerate(path.read_text().splitlines() if path.exists() else []):
        number, kind, *fields = line.split("\t")
        if kind == ">":
            name, where, inode, offset, count, detail = fields
            calls[number] = Call(int(number), name, where, int(inode), int(offset), None if count == "-" else int(count), detail, i)
        else:
            result, error = fields[1:]
            calls[number].end, calls[number].error = i, int(error)
            calls[number].result = None if result == "-" else int(result)
    return list(calls.values())


# ---------------------------------------------------------------------------------------------------------------- the runs


@dataclasses.dataclass
class Run(Result):
    calls: list = None

    def call(self, number):
        return next((call for call in self.calls if call.number == number), None)

    @property
    def commit(self):
        """The call that gave OUT its name, or None."""
        return next((call for call in self.calls if call.is_rename and call.done and "moerge-partial" in call.path), None)


def content(path):
    """File name -> bytes of a folder (a link is its text), or the bytes of a file; None when there is none."""
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        return path.read_bytes()
    return {str(file.relative_to(path)): os.readlink(file).encode() if file.is_symlink() else file.read_bytes()
            for file in sorted(path.rglob("*")) if file.is_symlink() or file.is_file()}


class Build:
    """One command that writes disk/out; --overwrite among its flags puts an old model there first."""

    def __init__(self, case, *flags, words=("moe", "moe.yaml"), out="out", below=("disk",), shard="12kB", **config):
        self.case, self.flags, self.below = case, list(flags), below
        self.overwrites = "--overwrite" in flags
        for name in ("base", "one", "two"):
            if not case.path(name).exists():
                case.model(name, **{"num_hidden_layers": 1, **config})
        if not case.path("moe.yaml").exists():
            case.yaml(text=FAULT_YAML)
        if shard:
            self.flags += ["--out-shard-size", shard]
        if not any(flag.startswith("-j") for flag in flags):
            self.flags.append("-j1")
        self.words = words
        self.disk = case.path("disk")
        self.out, self.partial = self.disk / out, self.disk / f".{out}.moerge-partial"
        self.preload = preload(case)
        self.clear()
        self.reference = self.run()
        if not self.reference.exits(0).calls:
            self.reference.fail("no call was counted: is the library of faults in its place?")
        self.expected = content(self.out)
        self.old = {"config.json": b"{}", "mine.txt": b"mine"} if self.overwrites else None
        self.clear()

    def expect_new(self):
        """What the changed input makes, in a folder of its own kept aside; disk/ is as before afterwards."""
        aside = self.case.path("aside")
        self.disk.rename(aside)
        self.disk.mkdir()
        self.put_old_output()
        self.run().exits(0)
        self.expected = content(self.out)
        shutil.rmtree(self.disk)
        aside.rename(self.disk)

    def put_old_output(self):
        if self.overwrites:
            self.out.mkdir()
            (self.out / "config.json").write_bytes(b"{}")
            (self.out / "mine.txt").write_bytes(b"mine")

    def clear(self):
        for path in self.disk.iterdir() if self.disk.exists() else []:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.disk.mkdir(exist_ok=True)
        self.put_old_output()

    def start(self, fault="", delay=0):
        """The process, with its stdout and stderr as pipes."""
        self.trace, self.fault = self.case.folder / "trace", fault
        self.trace.unlink(missing_ok=True)
        self.command = self.case.command([*self.words, f"disk/{self.out.name}", *self.flags])
        variables = {**self.case.variables(), "LD_PRELOAD": self.preload, "MOERGE_FAULT": fault, "MOERGE_FAULT_DELAY": str(delay),
                     "MOERGE_FAULT_BELOW": ":".join(str(self.case.path(name)) for name in self.below),
                     "MOERGE_FAULT_TRACE": str(self.trace), "MOERGE_FAULT_FAST": "1"}  # power cuts are ours: lose_power()
        self.sizes = {path.stat().st_ino: path.stat().st_size for path in self.disk.rglob("*") if path.is_file()}
        process = subprocess.Popen(self.command, cwd=self.case.work, env=variables, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.case.started.append(process)
        return process

    def ended(self, process):
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        self.case.started.remove(process)
        run = Run(self.command, process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"),
                  read_trace(self.trace))
        if run.code not in (0, 1, 2, 130, -signal.SIGKILL, -signal.SIGTERM):
            run.fail("the program crashed")
        for words in ("internal error", "terminate called", "AddressSanitizer", "ThreadSanitizer", "runtime error:"):
            if words in run.stderr:
                run.fail(f"stderr says {words}")
        return run

    def run(self, fault="", delay=0):
        return self.ended(self.start(fault, delay))

    def stopped(self, fault):
        """A process that waits at its "pause"."""
        process = self.start(fault)
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if state is not None:
                if state.si_code != os.CLD_STOPPED:
                    self.ended(process).fail(f"ended before it came to {fault}")
                return process
            time.sleep(0.002)
        raise AssertionError(f"did not come to {fault} in {TIMEOUT_S} s")

    def moment(self, part):
        """The number of a call after this part of the journal's lines, of a run with one thread."""
        head, *lines = [call.number for call in self.reference.calls if call.file == JOURNAL and call.is_write] or [0]
        assert lines, "an undisturbed run's journal says of no tensor that it is on disk"
        return lines[min(int(len(lines) * part), len(lines) - 1)] + 2

    # -------------------------------------------------------------------------------------------------------- judgements

    def claims(self):
        """Complete lines of the journal after its head: each says that tensors are on disk."""
        journal = self.partial / JOURNAL
        return max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0

    def is_complete(self):
        return content(self.out) == self.expected

    def must_be_whole_or_old(self, run):
        """OUT is never anything between what it was and what it is to become. True when it is finished."""
        if (self.fault or run.code == -signal.SIGKILL) and self.out.is_dir():  # after the rename hidden files may stay
            for path in self.out.glob(".moerge-*"):
                path.unlink()
        found = content(self.out)
        if found == self.expected:
            return True
        if found != self.old:
            run.fail(f"OUT is neither what it was nor what it should become: {difference(found, self.expected)}")
        return False

    def must_be_tidy(self, run):
        """Beside OUT lies nothing, or a partial folder worth continuing."""
        beside = {path.name for path in self.disk.iterdir()} - {self.out.name}
        if beside - {self.partial.name}:
            run.fail(f"something is left beside OUT: {sorted(beside)}")
        if beside and not self.is_worth_keeping():
            run.fail(f"a partial folder is left without a tensor in its journal: {sorted(content(self.partial))}")

    def is_worth_keeping(self):
        """Some tensors are in the journal, or all is done but the rename."""
        return self.claims() > 0 or content(self.partial) == self.expected

    def must_finish(self, *says):
        """The same command without faults, after any accident. A finished OUT that needs no --overwrite is left alone."""
        complete = self.is_complete()
        run = self.run()
        if complete and not self.overwrites:
            run.exits(2).says("exists and is not empty")
        else:
            run.exits(0)
        for words in says:
            if words not in run.stderr:
                run.fail(f"stderr lacks: {words}")
        if not self.is_complete():
            run.fail(f"OUT differs from an undisturbed run's: {difference(content(self.out), self.expected)}")
        if (left := sorted(path.name for path in self.disk.iterdir())) != [self.out.name]:
            run.fail(f"something is left beside OUT: {left}")
        return run


def difference(found, expected):
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return "a file" if found is not None else "there is none"
    more, less = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    other = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    return f"unexpected {more}, missing {less}, different {other}"


# ------------------------------------------------------------------------------------------------------- what is on disk


def spans_written(calls):
    """inode -> [(begin, end, line where it began, line where it ended)] of the finished writes."""
    spans = {}
    for call in calls:
        if call.is_write and call.done and call.result:
            spans.setdefault(call.inode, []).append((call.offset, call.offset + call.result, call.begin, call.end))
    return spans


def synced_before(calls, inode, line, before):
    """True when what was written to this file until `line` was synced, and that was done at the line `before`."""
    return any(call.is_sync and call.done and call.begin > line and call.end < before
               and (call.inode == inode or call.name == "syncfs") for call in calls)


def lose_power(build, run, lost):
    """Takes from the disk what the run had not synced when it died. Of a file's bytes become zeros, with lost="sizes" its
    size is the last one that was synced, too, with lost="names" new files are gone as well unless their folder was synced."""
    never = 1 << 60
    spans = spans_written(run.calls)
    sizes = {}  # inode -> [(size, line)], as it grew
    for call in run.calls:
        if call.name == "ftruncate" and call.done:
            sizes.setdefault(call.inode, []).append((call.offset, call.end))
        elif call.is_write and call.done and call.result:
            grown = sizes.setdefault(call.inode, [])
            last = grown[-1][0] if grown else 0
            grown.append((max(last, call.offset + call.result), call.end))
    for path in [path for path in build.disk.rglob("*") if path.is_file() and not path.is_symlink()]:
        inode = path.stat().st_ino
        grown = sizes.get(inode, [])
        kept = [size for size, line in grown if synced_before(run.calls, inode, line, never)]
        with open(path, "r+b") as file:
            for begin, end, _, line in spans.get(inode, []):
                if not synced_before(run.calls, inode, line, never):
                    file.seek(begin)
                    file.write(bytes(end - begin))
            if lost != "bytes" and len(kept) < len(grown):
                file.truncate(kept[-1] if kept else build.sizes.get(inode, 0))
    if lost != "names":
        return
    made = {}  # path -> line where it was made, followed through renames of its folder
    for call in run.calls:
        if call.creates and call.inode == 0 and call.done:
            made[call.path] = call.end
        elif call.name in ("fsync", "syncfs") and call.done:
            made = {path: line for path, line in made.items()
                    if not (line < call.begin and (str(Path(path).parent) == call.path or call.name == "syncfs"))}
        elif call.is_rename and call.done:
            made = {call.detail + path.removeprefix(call.path) if path.startswith(call.path + "/") else path: line
                    for path, line in made.items()}
    for path in made:
        if os.path.lexists(path):
            os.unlink(path)


def tensors_in(expected):
    """Shard's file name -> [(begin, end)] of the bytes of its tensors."""
    found = {}
    for name, data in expected.items():
        if SHARD.match(name):
            start = 8 + struct.unpack("<Q", data[:8])[0]
            entries = json.loads(data[8:start])
            found[name] = sorted((start + entry["data_offsets"][0], start + entry["data_offsets"][1])
                                 for tensor, entry in entries.items() if tensor != "__metadata__")
    return found


def claimed(build, run):
    """(shard, begin, end) of the tensors that were whole and synced before the last line of the journal was written; of the
    line before it when there are threads, for they may go on while a line is made."""
    lines = [call.begin for call in run.calls if call.file == JOURNAL and call.is_write and call.done]
    lines = lines if "-j1" in build.flags else lines[:-1]
    if not lines:
        return set()
    inodes = {call.inode: call.file for call in run.calls if SHARD.match(call.file) and call.inode}
    spans, tensors, sure = spans_written(run.calls), tensors_in(build.expected), set()
    for inode, shard in inodes.items():
        safe = [(begin, end) for begin, end, _, line in spans.get(inode, []) if synced_before(run.calls, inode, line, lines[-1])]
        for begin, end in tensors[shard]:
            have = sum(max(0, min(end, e) - max(begin, b)) for b, e in safe)
            if have >= end - begin:
                sure.add((shard, begin, end))
    return sure


def written_again(run, claims):
    """Those of the claims whose bytes the run wrote."""
    spans = {}
    for call in run.calls:
        if call.is_write and SHARD.match(call.file) and call.end is not None and call.result:
            spans.setdefault(call.file, []).append((call.offset, call.offset + call.result))
    return {claim for claim in claims for b, e in spans.get(claim[0], []) if b < claim[2] and claim[1] < e}
