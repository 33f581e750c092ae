#!/usr/bin/env python3
"""Measures `moerge moe` against `cp -r` of its result, and against mergekit-moe when one is given: makes the models, builds from
them, writes what it found into its section of docs/performance.md, and removes what it made.

usage: builds.py [--cases tiny,135m,1.1b,7b] [--rounds 3] [--mergekit BINARY] [--moerge BINARY] [--scratch FOLDER] [--keep]

1.1b is measured on XFS (loop-mounted, which needs root) and killed and resumed as well. A case that is not named keeps what the
section says of it. With --layers N, a trial with models of so few layers, the result is only printed. SCRATCH needs 30 GB for
1.1b and 60 GB for 7b, which writes 2.5 times as much a round. Run it when nothing else runs: two cores and one disk are easily
disturbed.
"""
import argparse
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys

import build_cases
import make_models

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- builds: begin -->", "<!-- builds: end -->"
TITLES = {  # of the parts of the section, in their order
    "tiny": "The example's family, 1M parameters, 4 experts",
    "135m": "SmolLM2-135M, 4 experts",
    "1.1b": "1.1B parameters, 4 experts",
    "1.1b-xfs": "1.1B parameters, 4 experts, on XFS",
    "1.1b-resume": "1.1B parameters, 4 experts, killed and resumed",
    "7b": "Mistral-7B, 2 experts",
}


def machine(scratch):
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f" {flag} " in info), "no AVX2")
    system = subprocess.run(["df", "--output=fstype", scratch], capture_output=True, text=True, check=True).stdout.split()[-1]
    return (f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else platform.machine()}, {vectors}), "
            f"{build_cases.memory_bytes() / 1e9:.0f} GB of memory, {system}")


def ratio(rows, others):
    """Median, lowest and highest of the rounds' ratios."""
    found = sorted(row / other for row, other in zip(rows, others))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def table(case, rows, how, where):
    walls = {name: [usage.wall for usage in usages] for name, usages in rows.items()}
    read, copy, sync = list(walls.values())[:3]
    synced = [c + s for c, s in zip(copy, sync)]
    out = [f"{len(case.sources)} files of {case.source_bytes / 1e6:.0f} MB in all. {where}. {how[0].upper()}{how[1:]}; medians.", "",
           "| command | wall s | CPU s | peak MB (anonymous) | read MB (from disk) | written MB (to disk) | wall / `cp` "
           "| wall / `cp` and `sync` |", "|---|---|---|---|---|---|---|---|"]
    for name, usages in rows.items():
        def median(field):
            return statistics.median(getattr(usage, field) for usage in usages)
        ratios = ("", "") if walls[name] in (read, sync) else (ratio(walls[name], copy), ratio(walls[name], synced))
        digits = 3 if median("wall") < 1 else 1
        peak = "over too soon" if math.isnan(median("peak")) else f"{median('peak'):.0f} ({median('anonymous'):.0f})"
        out.append(f"| {name} | {median('wall'):.{digits}f} | {median('cpu'):.{digits}f} | {peak} | "
                   f"{median('read'):.0f} ({median('from_disk'):.0f}) | {median('written'):.0f} ({median('to_disk'):.0f}) | "
                   f"{ratios[0]} | {ratios[1]} |")
    hidden, mergekit = (rows.get(f"`{program}`, hidden") for program in ("moerge moe", "mergekit-moe"))
    out += ["", "`hidden` takes {} of the time of `cp` and one read of the base, and {} when `cp` is synced.".format(
        *(ratio(walls["`moerge moe`, hidden"], [c + r for c, r in zip(peer, read)]) for peer in (copy, synced)))]
    if mergekit:
        out[-1] += " mergekit-moe needs {} times its CPU time and {} times its memory.".format(
            *(ratio([getattr(it, field) for it in mergekit], [getattr(it, field) for it in hidden]) for field in ("cpu", "peak")))
    return "\n".join(out)


def measure(name, a):
    """Part of the section -> Markdown."""
    scratch = a.scratch / f"builds-{name}"
    scratch.mkdir(parents=True, exist_ok=True)
    where, parts = machine(scratch), {}
    try:
        case = build_cases.make_case(name, scratch / "models", a.layers)
        parts[name] = table(case, *build_cases.measure_rounds(case, a, scratch), where)
        if name == "1.1b":
            parts["1.1b-resume"] = build_cases.measure_resume(case, a, scratch)
            if not a.keep:
                shutil.rmtree(scratch / "models")
            if on_xfs := build_cases.measure_xfs(name, a, scratch):
                parts["1.1b-xfs"] = on_xfs
    finally:
        if not a.keep:
            shutil.rmtree(scratch)
    return parts


def parts_of(section):
    """What the section says already."""
    found = dict(re.findall(r"^### ([^\n]*)\n\n(.*?)\n*(?=^### |\Z)", section, re.MULTILINE | re.DOTALL))
    return {part: found[title] for part, title in TITLES.items() if title in found}


def write_section(docs, parts):
    text = docs.read_text()
    before, section, after = re.fullmatch(f"(.*{BEGIN}\n)(.*)({END}.*)", text, re.DOTALL).groups()
    said = {**parts_of(section), **parts}
    new = "\n\n".join(f"### {title}\n\n{said[part]}" for part, title in TITLES.items() if part in said)
    docs.write_text(f"{before}{new}\n{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="tiny,135m,1.1b,7b", type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="for a trial: models of so few layers")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--moerge", type=pathlib.Path, default=ROOT / "build/release/moerge")
    parser.add_argument("--mergekit", type=pathlib.Path, help="mergekit-moe 0.1.5, run up to 1.1b")
    parser.add_argument("--keep", action="store_true", help="the models, for another run")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs/performance.md", help="the file whose section is written")
    a = parser.parse_args()
    if unknown := set(a.cases) - {"tiny", *make_models.SHAPES}:
        parser.error(f"no case {', '.join(unknown)} (there are tiny, {', '.join(make_models.SHAPES)})")
    if a.layers and "tiny" in a.cases:
        a.cases.remove("tiny")
    a.scratch, a.moerge = a.scratch.resolve(), a.moerge.resolve()
    for name in a.cases:
        for part, text in (parts := measure(name, a)).items():
            print(f"### {TITLES[part]}\n\n{text}\n", flush=True)
        if not a.layers:
            write_section(a.docs, parts)


if __name__ == "__main__":
    sys.exit(main())
