"""Runs a command and measures it; for the benchmarks beside this file."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

HUB = pathlib.Path(__file__).resolve().parent.parent / "tests/hub/fakehub.py"


def run(command, **environment):
    """(wall seconds, CPU seconds, peak resident MB, written MB)"""
    before = written()
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment})
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{error.decode()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, written() - before


def written():
    """What this process and its finished children gave to write(2) and its kin, in MB."""
    for line in pathlib.Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1]) / 1e6
    return 0


def warm(files):
    """Reads every source, so that no round pays for a cold disk."""
    for file in files:
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass


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
