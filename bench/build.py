#!/usr/bin/env python3
"""Times `moerge moe` against `cp -r` of its result, and against mergekit-moe when one is given, on the models that
make_models.py wrote. Prints a Markdown table of medians and of ratios taken round by round.

usage: build.py MODELS OUT [--moerge BINARY] [--mergekit BINARY] [--rounds 5]

Every round runs each command once, in turn, on a synced disk with the sources in the page cache; OUT is scratch space. Run it
when nothing else runs: two cores and one disk are easily disturbed.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys

from measure import run, warm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--moerge", default="build/release/moerge")
    parser.add_argument("--mergekit")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    reference = a.out / "reference"
    if not reference.exists():
        run([a.moerge, "moe", a.models / "random.yaml", reference, "--quiet"])
    commands = {
        "cp -r": lambda out: (["cp", "-r", reference, out], {}),
        "moerge random": lambda out: ([a.moerge, "moe", a.models / "random.yaml", out, "--quiet"], {"OMP_WAIT_POLICY": "PASSIVE"}),
        "moerge hidden": lambda out: ([a.moerge, "moe", a.models / "hidden.yaml", out, "--quiet"], {"OMP_WAIT_POLICY": "PASSIVE"}),
    }
    if a.mergekit:
        commands["mergekit-moe hidden"] = lambda out: ([a.mergekit, a.models / "hidden.yaml", out, "--quiet"], {"HF_HUB_OFFLINE": "1"})
    results = {name: [] for name in commands}
    for _ in range(a.rounds):
        for name, make in commands.items():
            out = a.out / "result"
            shutil.rmtree(out, ignore_errors=True)
            warm(a.models.glob("*/model.safetensors"))
            os.sync()
            command, environment = make(out)
            results[name].append(run(command, **environment))
            print(f"{name}: {results[name][-1]}", file=sys.stderr, flush=True)
    shutil.rmtree(a.out / "result", ignore_errors=True)

    print(f"| command | wall s | CPU s | peak MB | wall / cp (median of {a.rounds} rounds; lowest to highest) |\n|---|---|---|---|---|")
    for name, rows in results.items():
        wall, cpu, peak, _ = (statistics.median(column) for column in zip(*rows))
        ratios = sorted(row[0] / copy[0] for row, copy in zip(rows, results["cp -r"]))
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")
    if a.mergekit:
        ratios = [m[1] / o[1] for m, o in zip(results["mergekit-moe hidden"], results["moerge hidden"])]
        print(f"\nCPU time, mergekit-moe / moerge, hidden: {statistics.median(ratios):.1f}")


main()
