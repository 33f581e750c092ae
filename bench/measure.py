"""Runs a command and measures it; for the benchmarks beside this file."""
import os
import pathlib
import subprocess
import sys
import time


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
