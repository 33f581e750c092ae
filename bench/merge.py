#!/usr/bin/env python3
"""Measures `moerge merge` against mergekit-yaml and against `cp` of a file of the result's size: makes three models of 1.1B parameters,
merges them, writes its section of docs/performance.md, and removes what it made.

usage: merge.py --mergekit BINARY [--methods slerp,ties,dare_ties,linear] [--rounds 3] [--moerge BINARY] [--scratch FOLDER] [--keep]

BINARY is mergekit-yaml 0.1.5. A method that is not named keeps what the section says of it. With --layers N, a trial with models of so
few layers, the result is only printed. SCRATCH needs 14 GB. Run it when nothing else runs: two cores and one disk are easily disturbed.
"""
import argparse
import pathlib
import re
import shutil
import statistics
import sys

import build_cases
from build_cases import PASSIVE, PageCache, say, size_of, weights
from builds import machine, ratio
from measure import run, run_measured

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- merges: begin -->", "<!-- merges: end -->"
SHAPE, MODELS = "1.1b", ("base", "a", "b")
# Method -> (what it merges, lines of its YAML after models and base, how much faster than mergekit-yaml it has to be).
METHODS = {
    "slerp": (("base", "a"), ["parameters: {t: [0, 0.5, 0.3, 0.7, 1]}"], 4),
    "ties": (("base", "a", "b"), ["parameters: {weight: 0.5, density: 0.5}"], 15),
    "dare_ties": (("base", "a", "b"), ["parameters: {weight: 0.5, density: 0.5}"], 8),
    "linear": (("a", "b"), ["parameters: {weight: 0.5}"], 2),
}
SLOWEST_OF_CP, MOST_MEMORY = 1.5, 1000  # times, MB
HEAD = ["| method | models | `moerge merge` s | `mergekit-yaml` s | times as fast (at least) | / `cp` | / `cp` and `sync` "
        "| peak MB (anonymous) | of `mergekit-yaml` |", "|---|---|---|---|---|---|---|---|---|"]


def write_yaml(folder, method):
    names, lines, _ = METHODS[method]
    out = [f"merge_method: {method}"] + ([f"base_model: {folder / 'base'}"] if "base" in names else []) + ["models:"]
    out += [f"  - model: {folder / name}" for name in names]
    path = folder / f"{method}.yaml"
    path.write_text("\n".join([*out, *lines, "dtype: bfloat16"]) + "\n")
    return path


def make_case(a, folder):
    folder.mkdir(parents=True, exist_ok=True)
    say("making the models")
    run([sys.executable, build_cases.MAKER, folder, "--shape", SHAPE, "--models", ",".join(MODELS),
         *(["--layers", str(a.layers)] if a.layers else [])])
    sources = [file for name in MODELS for file in weights(folder / name)]
    return build_cases.Case("merge", folder, folder / "base", sources, size_of(weights(folder / "base")), size_of(sources))


def measure(case, a, scratch, method):
    """Row name -> one Usage a round."""
    result, copy, original = scratch / "result", scratch / "copy.safetensors", weights(case.base)[0]
    yaml = write_yaml(case.folder, method)
    sources = [file for name in METHODS[method][0] for file in weights(case.folder / name)]
    cache, rows = PageCache(case, []), {}

    def once(name, command, files, **environment):
        cache.prepare(files)
        rows.setdefault(name, []).append(run_measured(command, **environment))
        say(f"{method}, {name}: {rows[name][-1]}")

    for _ in range(a.rounds):
        once("cp", ["cp", original, copy], [original])
        rows.setdefault("sync", []).append(run_measured(["sync", "-f", copy]))
        copy.unlink()
        for name, command in (("moerge", [a.moerge, "merge"]), ("mergekit", [a.mergekit])):
            once(name, [*command, yaml, result, "--quiet"], sources, HF_HUB_OFFLINE="1", **PASSIVE)
            shutil.rmtree(result)
    return rows, str(cache)


def table_row(method, rows):
    """Markdown, and what it misses of what is wanted."""
    def median(name, field):
        return statistics.median(getattr(usage, field) for usage in rows[name])
    wall = {name: [usage.wall for usage in usages] for name, usages in rows.items()}
    synced = [c + s for c, s in zip(wall["cp"], wall["sync"])]
    models, _, least = METHODS[method]
    faster = statistics.median(k / m for k, m in zip(wall["mergekit"], wall["moerge"]))
    of_cp = statistics.median(m / c for m, c in zip(wall["moerge"], synced))
    peak = median("moerge", "peak")
    missed = [text for ok, text in ((faster >= least, f"{method}: {faster:.2f} times as fast as mergekit-yaml, {least} are wanted"),
                                    (of_cp <= SLOWEST_OF_CP, f"{method}: {of_cp:.2f} of cp and sync, {SLOWEST_OF_CP} are wanted"),
                                    (peak <= MOST_MEMORY, f"{method}: {peak:.0f} MB, {MOST_MEMORY} are wanted")) if not ok]
    memory = [f"{median(name, 'peak'):.0f} ({median(name, 'anonymous'):.0f})" for name in ("moerge", "mergekit")]
    return (f"| {method} | {len(models)} | {median('moerge', 'wall'):.2f} | {median('mergekit', 'wall'):.1f} | "
            f"{ratio(wall['mergekit'], wall['moerge'])} ({least}) | {ratio(wall['moerge'], wall['cp'])} | "
            f"{ratio(wall['moerge'], synced)} | {memory[0]} | {memory[1]} |"), missed


def rows_of(section):
    """Method -> its row, as the section has it."""
    return {row.split("|")[1].strip(): row for row in section.splitlines() if row.count("|") == HEAD[0].count("|")}


def write_section(docs, where, rows):
    text = docs.read_text()
    before, section, after = re.fullmatch(f"(.*{BEGIN}\n)(.*)({END}.*)", text, re.DOTALL).groups()
    said = {**rows_of(section), **rows}
    lines = [where, "", *HEAD, *(said[method] for method in METHODS if method in said)]
    docs.write_text(before + "\n".join(lines) + "\n" + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=pathlib.Path, required=True, help="mergekit-yaml 0.1.5")
    parser.add_argument("--methods", default=",".join(METHODS), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="for a trial: models of so few layers")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--moerge", type=pathlib.Path, default=ROOT / "build/release/moerge")
    parser.add_argument("--keep", action="store_true", help="the models, for another run")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs/performance.md", help="the file whose section is written")
    a = parser.parse_args()
    if unknown := set(a.methods) - set(METHODS):
        parser.error(f"no method {', '.join(unknown)} (there are {', '.join(METHODS)})")
    a.moerge, a.mergekit = a.moerge.resolve(), a.mergekit.absolute()
    scratch = a.scratch.resolve() / "merge"
    scratch.mkdir(parents=True, exist_ok=True)
    where, rows, missed = machine(scratch), {}, []
    try:
        case = make_case(a, scratch / "models")
        for method in a.methods:
            usages, how = measure(case, a, scratch, method)
            rows[method], misses = table_row(method, usages)
            missed += misses
    finally:
        if not a.keep:
            shutil.rmtree(scratch)
    where = (f"Three models of {case.result_bytes / 1e6:.0f} MB. {where}. {a.rounds} rounds, each with every command once; {how}; medians, "
             f"and of ratios the lowest and highest round.")
    print("\n".join([where, "", *HEAD, *rows.values(), *missed]), flush=True)
    if not a.layers:
        write_section(a.docs, where, rows)


if __name__ == "__main__":
    sys.exit(main())
