#!/usr/bin/env python3
"""moerge extract-lora against PyTorch and PEFT.

usage: PYTHON lora.py MOERGE BASE MODEL [--rank R ...] [--peer]

PYTHON has torch, transformers, peft and safetensors; BASE and MODEL, a fine-tune of it, are folders with safetensors.
For each rank:
- every module's error ||D - BA|| / ||D|| is at most 1 % above that of torch.linalg.svd's first R singular values (float64), with the
  adapter in float32, and what moerge says it is;
- PEFT loads the adapter: the logits of base and adapter together are those of the merged weights (merge_and_unload), closer to MODEL's
  than the base's, and come closer as the rank grows; at full rank they are MODEL's;
- --peer: mergekit-extract-lora (beside PYTHON) with the same rank, its errors beside ours.
Ends with "N passed, M failed".
"""
import argparse, json, pathlib, subprocess, sys, tempfile

import peft, torch, transformers
from safetensors.torch import load_file

PREFIX = "base_model.model."
passed, failed = 0, 0


def check(name, holds, found):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    if not holds:
        print(f"FAILED {name}: {found}")


def tensors(folder):
    out = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        out |= load_file(file)
    return {name: t.double() for name, t in out.items()}


def products(adapter):
    """{module: B A}"""
    t = {name.removeprefix(PREFIX): value for name, value in tensors(adapter).items()}
    return {name.removesuffix(".lora_A.weight"): t[name.replace("lora_A", "lora_B")] @ t[name]
            for name in t if name.endswith(".lora_A.weight")}


def errors(adapter, base, model):
    """{module: ||D - BA|| / ||D||}"""
    out = {}
    for module, product in products(adapter).items():
        difference = model[module + ".weight"] - base[module + ".weight"]
        out[module] = float((difference - product).norm() / difference.norm())
    return out


def optimum(base, model, module, rank):
    difference = model[module + ".weight"] - base[module + ".weight"]
    values = torch.linalg.svd(difference, full_matrices=False).S
    return float(values[rank:].norm() / values.norm())


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def distance(a, b):
    return float((a - b).norm() / b.norm())


def check_logits(arguments, adapter, rank, ids, target):
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(load(arguments.base), adapter).eval()
        beside = loaded(ids).logits
        merged = loaded.merge_and_unload()(ids).logits
        base = load(arguments.base)(ids).logits
    check(f"rank {rank}: logits of base + adapter are those of merged weights", distance(beside, merged) < 1e-4, distance(beside, merged))
    check(f"rank {rank}: adapter brings base closer", distance(beside, target) < distance(base, target), distance(beside, target))
    return distance(beside, target), distance(base, target)


def run(arguments, rank, ids, target, folder):
    adapter = folder / f"rank{rank}"
    flags = ["--base", arguments.base, "--rank", str(rank), "--dtype", "float32", "--json", "--quiet"]
    report = json.loads(subprocess.run([arguments.moerge, "extract-lora", arguments.model, adapter, *flags], check=True,
                                       capture_output=True, text=True).stdout)
    base, model = tensors(arguments.base), tensors(arguments.model)
    found = errors(adapter, base, model)
    worst = 0.0
    for row in report["modules"]:
        module, best = row["module"], optimum(base, model, row["module"], rank)
        ratio = found[module] / best if best > 1e-6 else 1.0
        worst = max(worst, ratio)
        check(f"rank {rank}: {module} within 1 % of the optimum", found[module] <= 1.01 * best + 1e-5, (found[module], best))
        check(f"rank {rank}: {module} says its error", abs(row["error"] - found[module]) < 1e-4, (row["error"], found[module]))
    check(f"rank {rank}: all modules", found.keys() == {row["module"] for row in report["modules"]}, sorted(found))
    logits, before = check_logits(arguments, adapter, rank, ids, target)
    print(f"rank {rank}: {len(found)} modules, error {report['error']:.4f}, energy kept {report['kept_energy']:.4f}, at most "
          f"{worst:.6f} times the optimum; logits {logits:.4f} from MODEL's (base {before:.4f}); {report['bytes']} bytes")
    if arguments.peer:
        print(f"  mergekit: {peer_error(arguments, rank, folder, base, model):.4f}")
    return logits


def peer_error(arguments, rank, folder, base, model):
    """Of all modules that it decomposed."""
    program, adapter = pathlib.Path(sys.executable).with_name("mergekit-extract-lora"), folder / f"peer{rank}"
    subprocess.run([program, "--model", arguments.model, "--base-model", arguments.base, "--out-path", adapter, "--max-rank", str(rank)],
                   check=True, capture_output=True)
    rest = whole = 0.0
    for module, product in products(adapter).items():
        difference = model[module + ".weight"] - base[module + ".weight"]
        rest, whole = rest + float((difference - product).norm() ** 2), whole + float(difference.norm() ** 2)
    return (rest / whole) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moerge")
    parser.add_argument("base")
    parser.add_argument("model")
    parser.add_argument("--rank", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--peer", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    full = load(arguments.model)
    ids = torch.randint(3, full.config.vocab_size, (4, 64))
    with torch.no_grad():
        target = full(ids).logits
    with tempfile.TemporaryDirectory() as folder:
        distances = [run(arguments, rank, ids, target, pathlib.Path(folder)) for rank in sorted(arguments.rank)]
    check("logits come closer as the rank grows", all(a > b for a, b in zip(distances, distances[1:])), distances)
    if max(arguments.rank) >= max(full.config.hidden_size, full.config.intermediate_size):
        check("full rank gives MODEL's logits", distances[-1] < 1e-4, distances[-1])
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
