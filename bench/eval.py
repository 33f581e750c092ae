#!/usr/bin/env python3
"""Times what `moerge eval` computes against lm-evaluation-harness with transformers, on the same items and threads.

usage: eval.py PYTHON_WITH_LM_EVAL MODEL_FOLDER GGUF TASKS_FOLDER [--tasks loc_arc_easy] [--shots 5] [--limit 40] [--threads 2]
               [--rounds 3] [--tool build/release/bench/eval_score]

Both answer the same requests: the harness makes them (float32, batches of 4, sorted by length as it does), eval_score reads them. In
every round one runs after the other, so that a slow minute hits both; the harness is timed as a whole and, with --limit 1, without
its items, and ours likewise with and without loading. Prints medians, the ratio of the times for the items, and our peak memory
beside the size of the GGUF. Run it when nothing else runs.
"""
import argparse, json, os, statistics, sys, tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests/eval")]
from lm_eval_run import harness, ours
from measure import run_measured


def peak(tool, gguf, rows, flags):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for row in rows:
            file.write(json.dumps({key: row[key] for key in ("context", "continuation", "until", "max_tokens") if key in row}) + "\n")
        file.flush()
        return run_measured(["sh", "-c", 'exec "$0" "$@" < ' + file.name, tool, gguf, *flags]).peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("python", "model", "gguf", "folder"):
        parser.add_argument(name)
    parser.add_argument("--tasks", default="loc_arc_easy")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tool", default="build/release/bench/eval_score")
    a = parser.parse_args()
    flags = ["-t", str(a.threads)]
    whole, start, mine, loads = [], [], [], []
    for _ in range(a.rounds):
        rows, seconds = harness(a.python, a.model, a.tasks, a.folder, a.limit, a.shots, a.threads)
        whole.append(seconds)
        start.append(harness(a.python, a.model, a.tasks, a.folder, 1, a.shots, a.threads)[1])
        _, told = ours(a.tool, a.gguf, rows, flags)
        mine.append(told["seconds"])
        loads.append(told["load_seconds"])
    theirs = statistics.median(whole) - statistics.median(start)
    items = len({(row["task"], row["item"]) for row in rows})
    print(f"{items} items, {len(rows)} requests, {a.shots} shots, {a.threads} threads, medians of {a.rounds} rounds")
    print(f"  lm-eval: {statistics.median(whole):.1f} s, {theirs:.1f} s without the start and the first item")
    print(f"  moerge:  {statistics.median(mine):.1f} s, and {statistics.median(loads):.1f} s to load; "
          f"{told['computed_tokens']} tokens computed")
    print(f"  ratio: {theirs / statistics.median(mine):.1f} of the items, "
          f"{statistics.median(whole) / (statistics.median(mine) + statistics.median(loads)):.1f} of the whole runs")
    print(f"  moerge's peak memory: {peak(a.tool, a.gguf, rows, flags):.0f} MB, the GGUF has {os.path.getsize(a.gguf) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
