#!/usr/bin/env python3
"""Writes what lm-evaluation-harness asks a model for every multiple-choice task, for hf_likelihoods.py and likelihoods.py.

usage: requests.py LMEVAL_PYTHON TASKS OUT.jsonl.gz [--limit 50]

LMEVAL_PYTHON and TASKS as in prompts.py, which shows that moerge asks the same. Each task without examples, and with those of the
Open LLM Leaderboard. A line: {"task": "hellaswag:10", "item": 3, "context": ..., "continuation": ...}.
"""
import argparse, gzip, json, sys, tempfile
from pathlib import Path

sys.dont_write_bytecode = True
from prompts import bigbench_requests, lm_eval_jobs, run_lm_eval

WRITTEN = ("gsm8k", "eq_bench")  # not by choices
SHOTS = {"arc_challenge": (0, 25), "hellaswag": (0, 10), "winogrande": (0, 5), "mmlu": (5,)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("out")
    parser.add_argument("--limit", type=int, default=50)
    a = parser.parse_args()
    tasks = a.tasks.resolve()
    names = dict.fromkeys(name for _, name, _ in lm_eval_jobs(tasks) if name not in WRITTEN and not name.startswith("same_"))
    jobs = [(f"loc_{name}", name, shots) for name in names for shots in SHOTS.get(name, (0,))]
    with tempfile.TemporaryDirectory() as folder:
        asked = run_lm_eval(a.python, Path(folder), tasks, [job for job in jobs if job[1] != "mmlu"], a.limit)
        # Its definition draws the examples itself. All items: each subject has few.
        asked |= run_lm_eval(a.python, Path(folder), tasks, [("loc_mmlu", "mmlu", 0)], -1)
    items = {f"{name}:{shots}": asked[f"{task}:{0 if name == 'mmlu' else shots}"] for task, name, shots in jobs}
    for file in sorted((tasks / "bigbench").glob("*.jsonl")):
        items[f"bigbench_{file.stem}:0"] = bigbench_requests(a.python, tasks / "bigbench", file.stem, a.limit)
    with gzip.open(a.out, "wt", encoding="utf-8") as file:
        for task, rows in items.items():
            for row in rows:
                for context, continuation in zip(row["contexts"], row["continuations"], strict=True):
                    file.write(json.dumps({"task": task, "item": row["index"], "context": context, "continuation": continuation}) + "\n")
    print(f"{len(items)} settings, {sum(map(len, items.values()))} items")


if __name__ == "__main__":
    main()
