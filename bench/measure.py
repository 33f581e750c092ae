"""Runs a command and measures it; for the benchmarks beside this file."""
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HUB = pathlib.Path(__file__).resolve().parent.parent / "tests/hub/fakehub.py"


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of a process and the children that it waited for. Seconds and MB."""
    wall: float
    cpu: float
    peak: float       # resident memory, mapped pages included; NaN when it was over before anyone looked
    anonymous: float  # of it what no file holds, sampled
    read: float       # by read(2) and its kin; what is copied by copy_file_range or sendfile counts, mapped pages do not
    written: float    # likewise; blocks that copy_file_range shares count as if they had been copied
    from_disk: float  # what was not in the page cache, mapped pages and reading ahead included
    to_disk: float    # pages of the page cache that it made dirty; shared blocks do not count
    killed: bool


def run(command, **environment):
    """(wall seconds, CPU seconds, peak resident MB, written MB)"""
    usage = run_measured(command, **environment)
    return usage.wall, usage.cpu, usage.peak, usage.written


def run_measured(command, kill_after=None, **environment):
    """Usage; `kill_after`: SIGKILL once it has written so many MB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment})
    seen, over = {key: fields(process.pid, "status").get(key, 0) for key in ("VmHWM", "RssAnon")}, threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, seen, over, kill_after))
    watcher.start()
    error = process.stderr.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    wall = time.monotonic() - start
    over.set()
    watcher.join()
    io = fields(process.pid, "io")  # until wait4 it can be asked
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    killed = kill_after is not None and process.returncode == -signal.SIGKILL
    if status and not killed:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{error.decode()[-2000:]}")
    # The kernel counts what this program held when it started the other as the other's: below that only samples know.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss if usage.ru_maxrss > own else seen["VmHWM"] or math.nan
    megabytes = (io[key] / 1e6 for key in ("rchar", "wchar", "read_bytes", "write_bytes"))
    return Usage(wall, usage.ru_utime + usage.ru_stime, peak * 1024 / 1e6, seen["RssAnon"] * 1024 / 1e6, *megabytes, killed)


def watch(pid, seen, over, kill_after):
    """Largest values of `seen`'s keys in /proc/PID/status (kB)."""
    while not over.wait(0.005):
        now = fields(pid, "status")
        for key in seen:
            seen[key] = max(seen[key], now.get(key, 0))
        if kill_after is not None and fields(pid, "io").get("wchar", 0) > kill_after * 1e6:
            os.kill(pid, signal.SIGKILL)
            return


def fields(pid, name):
    """The numbers of a file of /proc/PID."""
    found = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/{name}").read_text().splitlines():
            key, *rest = line.replace(":", " ").split()
            if rest and rest[0].isdigit():
                found[key] = int(rest[0])
    return found


def warm(files):
    """Reads every source, so that no round pays for a cold disk."""
    for file in files:
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass


def evict(files):
    """Takes these out of the page cache; what is dirty stays, so sync first."""
    for file in files:
        with open(file, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch_free_memory(size):
    """A virtual machine's host may have taken free pages back; to get one again costs more than to fill it. So many bytes of the
    free memory are pages that the next command gets at once."""
    free = fields("meminfo", "").get("MemFree", 0) * 1024
    subprocess.run([sys.executable, "-c", "import sys; b'x' * int(sys.argv[1])", str(min(size, free * 3 // 4))], check=True)


def drop_caches():
    """Empties the page cache; False where that is not allowed."""
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return True
    except OSError:
        return False


@contextlib.contextmanager
def a_hub(folder):
    """(folder, URL) of the tests' own Hub, a process of its own; both are gone at the end. `folder`: where it is made."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="moerge-hub-", dir=folder))
    server = subprocess.Popen([sys.executable, HUB, root / "hub"], stdout=subprocess.PIPE, text=True)
    try:
        yield root, json.loads(server.stdout.readline())["hub"]
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(root, ignore_errors=True)


def ask(url, method="GET", body=None):
    """What it answers."""
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method)) as answer:
        return answer.read()
