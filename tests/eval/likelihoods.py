#!/usr/bin/env python3
"""Compares loglikelihoods and written answers with those of lm-evaluation-harness (transformers, float32, CPU), request by request.

usage: likelihoods.py PYTHON_WITH_LM_EVAL MODEL_FOLDER TASKS_FOLDER --gguf FILE... [--tasks a,b] [--shots K] [--limit N]
                      [--tool build/release/bench/eval_score] [--flags "-ctk f16"]
       likelihoods.py REQUESTS.jsonl.gz ANSWERS.jsonl --gguf FILE...

MODEL_FOLDER: float32 weights for transformers; the GGUFs are of the same model. TASKS_FOLDER: definitions for lm-eval with their data.
REQUESTS and ANSWERS: what requests.py and hf_likelihoods.py wrote, which is every task at once.
Prints the largest and mean difference for each GGUF and task, the items whose likeliest choice differs with their margins, and exits 1
when a difference is above --allow (1e-2) or fewer than 99 % of the items agree. By hand: it needs torch and minutes.
"""
import argparse, collections, gzip, json, os, sys

sys.dont_write_bytecode = True
from lm_eval_run import harness, ours


def best(values):
    return values.index(max(values))


def read(requests, answers):
    rows = [json.loads(line) for line in gzip.open(requests, "rt", encoding="utf-8")]
    return [{**row, **json.loads(line)} for row, line in zip(rows, open(answers, encoding="utf-8"), strict=True)]


def task_lines(items):
    """One line a task: its items, with the same choice, largest and mean difference."""
    tasks = collections.defaultdict(list)
    for (task, _), values in items.items():
        tasks[task].append(values)
    for task, values in tasks.items():
        apart = [abs(x - y) for theirs, mine in values for x, y in zip(theirs, mine)]
        same = sum(best(theirs) == best(mine) for theirs, mine in values)
        yield f"    {task:48} {len(values):4} items, {same:4} alike; largest {max(apart):.1e}, mean {sum(apart) / len(apart):.1e}"


def compare(rows, answers, allow):
    scored = [(row, answer) for row, answer in zip(rows, answers) if "continuation" in row]
    written = [(row, answer) for row, answer in zip(rows, answers) if "until" in row]
    good = True
    if scored:
        apart = [abs(row["value"] - answer["value"]) for row, answer in scored]
        greedy = sum(row["greedy"] == answer["greedy"] for row, answer in scored)
        items = collections.defaultdict(lambda: ([], []))
        for row, answer in scored:
            theirs, mine = items[row["task"], row["item"]]
            theirs.append(row["value"])
            mine.append(answer["value"])
        differing = [(key, *values) for key, values in items.items() if best(values[0]) != best(values[1])]
        worst = max(zip(apart, scored), key=lambda pair: pair[0])[1][0]
        print(f"  {len(scored)} loglikelihoods: largest difference {max(apart):.2e} ({worst['task']}, item {worst['item']}, "
              f"{worst['value']:.1f}), mean {sum(apart) / len(apart):.2e}; greedy equal {greedy}")
        print(f"  {len(items)} items: {len(items) - len(differing)} with the same likeliest choice")
        print("\n".join(task_lines(items)))
        for (task, item), theirs, mine in differing:
            margin = sorted(theirs)[-1] - sorted(theirs)[-2]
            print(f"    {task}, item {item}: {best(theirs)} there, {best(mine)} here; margin there {margin:.2e}")
        good = max(apart) <= allow and len(differing) <= len(items) / 100
    if written:
        differing = [(row, answer) for row, answer in written if row["text"].strip() != answer["text"].strip()]
        print(f"  {len(written)} written answers: {len(written) - len(differing)} equal")
        for row, answer in differing:
            same = len(os.path.commonprefix([row["text"].strip(), answer["text"].strip()]))
            print(f"    {row['task']}, item {row['item']}: equal for {same} of {len(row['text'])} characters")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="+")
    parser.add_argument("--gguf", nargs="+", required=True)
    parser.add_argument("--tasks", default="loc_arc_easy,loc_hellaswag,loc_piqa,loc_boolq")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tool", default="build/release/bench/eval_score")
    parser.add_argument("--flags", default="", help="of llama.cpp")
    parser.add_argument("--allow", type=float, default=1e-2)
    a = parser.parse_args()
    if len(a.source) == 2:
        rows = read(*a.source)
    elif len(a.source) == 3:
        python, model, folder = a.source
        rows, seconds = harness(python, model, a.tasks, folder, a.limit, a.shots, a.threads)
        print(f"lm-eval: {len(rows)} requests in {seconds:.0f} s")
    else:
        parser.error("REQUESTS ANSWERS, or PYTHON MODEL TASKS")
    good = True
    for gguf in a.gguf:
        answers, told = ours(a.tool, gguf, rows, ["-t", str(a.threads), *a.flags.split()])
        print(f"{gguf}: {told['seconds']:.1f} s and {told['load_seconds']:.1f} s to load, {told['computed_tokens']} tokens computed")
        good = compare(rows, answers, a.allow) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
