#!/usr/bin/env python3
"""Times `moerge gguf YAML` to Q4_K_M, straight from the experts, against the long way: mergekit-moe, llama.cpp's converter to
bf16, llama.cpp's quantiser. On the models that make_models.py wrote. Prints a Markdown table: medians of wall and CPU time,
peak resident memory, bytes written, and the ratio to the quantiser alone, round by round.

usage: gguf.py MODELS OUT --quantizer BINARY [--moerge BINARY] [--rounds 3] [--converter PYTHON SCRIPT] [--mergekit BINARY]

The quantiser is the target llama_quantize of this project's build. The converter refuses what the newest mergekit writes, so it
gets moerge's checkpoint of the same YAML; mergekit-moe and the converter run once only, they are slow. OUT is scratch space and
needs about three times the size of the bf16 model. Run it when nothing else runs.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys

from measure import run, warm

Q4_K_M = 15


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--moerge", default="build/release/moerge")
    parser.add_argument("--quantizer", required=True)
    parser.add_argument("--converter", nargs=2, metavar=("PYTHON", "SCRIPT"))
    parser.add_argument("--mergekit")
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    yaml, checkpoint, whole = a.models / "hidden.yaml", a.out / "checkpoint", a.out / "whole.gguf"
    direct, quantised = a.out / "direct.gguf", a.out / "quantised.gguf"
    passive = {"OMP_WAIT_POLICY": "PASSIVE"}
    rows = {}

    def once(name, command, **environment):
        rows.setdefault(name, []).append(run(command, **environment))
        print(f"{name}: {rows[name][-1]}", file=sys.stderr, flush=True)

    if a.mergekit:
        once("mergekit-moe", [a.mergekit, yaml, a.out / "mergekit", "--quiet"], HF_HUB_OFFLINE="1")
        shutil.rmtree(a.out / "mergekit")
    if a.converter:
        if not checkpoint.exists():
            run([a.moerge, "moe", yaml, checkpoint, "--quiet"], **passive)
        once("convert_hf_to_gguf.py", [*a.converter, checkpoint, "--outfile", whole, "--outtype", "bf16"])
    elif not whole.exists():
        run([a.moerge, "gguf", yaml, whole, "--type", "bf16", "--quiet"], **passive)
    for _ in range(a.rounds):
        for name, sources, command in (
                ("llama.cpp's quantiser alone", [whole], [a.quantizer, whole, quantised, str(Q4_K_M)]),
                ("moerge gguf", a.models.glob("*/model.safetensors"),
                 [a.moerge, "gguf", yaml, direct, "--type", "q4_k_m", "--overwrite", "--quiet"])):
            warm(sources)
            os.sync()
            once(name, command, **passive)

    quantiser = rows["llama.cpp's quantiser alone"]
    print("| command | wall s | CPU s | peak MB | written MB | wall / quantiser (median; lowest to highest) |\n|---|---|---|---|---|---|")
    for name, results in rows.items():
        wall, cpu, peak, megabytes = (statistics.median(column) for column in zip(*results))
        ratios = sorted(row[0] / other[0] for row, other in zip(results, quantiser))
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {megabytes:.0f} | "
              f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


main()
