#!/usr/bin/env python3
"""Compares loglikelihoods and written answers with those of lm-evaluation-harness (transformers, float32, CPU), request by request.

usage: likelihoods.py PYTHON_WITH_LM_EVAL MODEL_FOLDER TASKS_FOLDER --gguf FILE... [--tasks a,b] [--shots K] [--limit N]
                      [--tool build/release/bench/eval_score] [--flags "-ctk f16"]

MODEL_FOLDER: float32 weights for transformers; the GGUFs are of the same model. TASKS_FOLDER: definitions for lm-eval with their data.
Prints the largest and mean difference for each GGUF, the items whose likeliest choice differs with their margins, and exits 1 when a
difference is above --allow (1e-2) or fewer than 99 % of the items agree. By hand: it needs torch and minutes.
"""
import argparse, collections, os, sys

sys.dont_write_bytecode = True
from lm_eval_run import harness, ours


def best(values):
    return values.index(max(values))


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
    parser.add_argument("python")
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--gguf", nargs="+", required=True)
    parser.add_argument("--tasks", default="loc_arc_easy,loc_hellaswag,loc_piqa,loc_boolq")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tool", default="build/release/bench/eval_score")
    parser.add_argument("--flags", default="", help="of llama.cpp")
    parser.add_argument("--allow", type=float, default=1e-2)
    a = parser.parse_args()
    rows, seconds = harness(a.python, a.model, a.tasks, a.folder, a.limit, a.shots, a.threads)
    print(f"lm-eval: {len(rows)} requests in {seconds:.0f} s")
    good = True
    for gguf in a.gguf:
        answers, told = ours(a.tool, gguf, rows, ["-t", str(a.threads), *a.flags.split()])
        print(f"{gguf}: {told['seconds']:.1f} s and {told['load_seconds']:.1f} s to load, {told['computed_tokens']} tokens computed")
        good = compare(rows, answers, a.allow) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
