#!/usr/bin/env python3
"""Every merge method gives the values that mergekit's own gives for the same tensors.

usage: methods.py MERGE_TENSORS PYTHON_WITH_MERGEKIT [-k NAME]
       methods.py --write tests/golden/merge_methods.json PYTHON_WITH_MERGEKIT

MERGE_TENSORS is built by `ninja -C build/release merge_tensors`; PYTHON_WITH_MERGEKIT has mergekit 0.1.5 and torch. Random tensors
of several shapes, as bfloat16, float16 and float32, with ties, zeros and equal tensors among them. A difference is counted in units
in the last place of the larger of the two values and of the base's (a sum that nearly cancels out has no more digits than what it is
made of). mergekit sorts by PyTorch's unstable sort, so which of several equal values stay depends on the machine; here its sorts are
made stable, as ours are. Methods that draw are compared where nothing is drawn. Ends with "N passed, M failed".

--write keeps mergekit's values for one small shape, for merge/methods_test.cpp.
"""
import argparse, collections, json, pathlib, subprocess, sys

STABLE_SORTS = (pathlib.Path(__file__).parent / "stable_sorts.py").read_text()
# Run by mergekit's Python: jobs in, values out. Values of parameters are by input where there are several.
THEIRS = STABLE_SORTS + r"""
import json, sys
from mergekit.merge_methods.registry import get
from mergekit.merge_methods.base import TensorEntry, TensorGroup, TensorMetadata, ParameterScope, PerInputValues
for line in sys.stdin:
    job = json.loads(line)
    method = get(job["method"])
    dtype = getattr(torch, job["dtype"])
    names = [f"model{i}" for i in range(len(job["inputs"]))]
    entries = tuple(TensorEntry(id=name, tensor=torch.tensor(values, dtype=torch.float32).to(dtype).reshape(job["shape"]), is_base=i == job["base"])
                    for i, (name, values) in enumerate(zip(names, job["inputs"])))
    group = TensorGroup(entries=entries, metadata=TensorMetadata(name="tensor"))
    parameters = {}
    for spec in method.spec.parameters:
        given = job["values"].get(spec.name)
        if given is None:
            if spec.required: raise SystemExit(f"{spec.name} is missing")
            given = [spec.default] * len(names)
        cast = (lambda v: v) if given[0] is None else {bool: bool, int: int}.get(spec.value_type, float)
        if spec.scope == ParameterScope.SHARED:
            parameters[spec.name] = cast(given[0])
        else:
            parameters[spec.name] = PerInputValues([(entry.id, cast(given[i])) for i, entry in enumerate(entries)
                                                    if spec.scope == ParameterScope.INPUT or not entry.is_base])
    try:
        (out,) = method._execute_resolved((group,), [parameters], dtype=None, out_dtype=None)
        print(json.dumps(out.to(dtype).float().flatten().tolist()))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""
# Makes the tensors; they come rounded to the type.
TENSORS = r"""
import json, sys, torch
torch.manual_seed(int(sys.argv[1]))
out = []
for shape in json.loads(sys.argv[2]):
    for dtype in ("float32", "bfloat16", "float16"):
        base = torch.randn(shape) * 0.05
        rows = [base]
        for i in range(4):
            rows.append(base + torch.randn(shape) * 0.01 * (i + 1))
        rows[3] = torch.where(torch.rand(shape) < 0.3, base, rows[3])   # many that did not change
        out.append({"shape": shape, "dtype": dtype, "rows": [r.to(getattr(torch, dtype)).float().flatten().tolist() for r in rows]})
json.dump(out, sys.stdout)
"""
SHAPES = [[64, 96], [257], [33, 31], [2, 3]]
BITS = {"float32": 23, "bfloat16": 7, "float16": 10}


def cases():
    """(name, method, models beside the base, has a base, values by parameter; a list is by model, the base's first)"""
    for n in (1, 2, 3):
        yield f"linear of {n}", "linear", n, False, {"weight": [0.3, 0.5, -0.4][:n]}
        yield f"linear of {n}, not normalized", "linear", n, False, {"weight": [0.3, 0.5, 0.4][:n], "normalize": [0]}
    for t in (0, 0.3, 1):
        yield f"slerp {t}", "slerp", 1, True, {"t": [t]}
        yield f"nearswap {t / 100}", "nearswap", 1, True, {"t": [t / 100]}
    for flags in ({}, {"nuslerp_flatten": [0]}, {"nuslerp_flatten": [0], "nuslerp_row_wise": [1]}):
        yield f"nuslerp {flags}", "nuslerp", 2, False, {"weight": [0.4, 0.6], **flags}
        yield f"nuslerp of differences {flags}", "nuslerp", 2, True, {"weight": [0, 0.4, 0.9], **flags}
    for n in (1, 2, 3, 4):
        weights = [0.4, 0.6, 0.3, 0.8][:n]
        yield f"multislerp of {n}", "multislerp", n, False, {"weight": weights}
        yield f"multislerp of {n} differences", "multislerp", n, True, {"weight": [0, *weights], "normalize_weights": [n % 2]}
        yield f"karcher of {n}", "karcher", n, False, {}
        yield f"task_arithmetic of {n}", "task_arithmetic", n, True, {"weight": [0, *weights]}
        yield f"task_arithmetic of {n}, normalized", "task_arithmetic", n, True, {"weight": [0, *weights], "normalize": [1], "lambda": [0.7]}
        for density in (0.0, 0.01, 0.35, 0.9, 1.0):
            share = {"weight": [0, *weights], "density": [0] + [density] * n}
            yield f"ties of {n}, density {density}", "ties", n, True, share
            yield f"ties of {n}, density {density}, rescaled", "ties", n, True, {**share, "rescale": [1], "normalize": [0], "lambda": [1.3]}
            for gamma in (0, 0.01, 0.2):
                yield f"breadcrumbs of {n}, density {density}, gamma {gamma}", "breadcrumbs", n, True, {**share, "gamma": [gamma] * (n + 1)}
            yield f"breadcrumbs_ties of {n}, density {density}", "breadcrumbs_ties", n, True, share
        for name in ("dare_ties", "dare_linear", "della", "della_linear"):
            yield f"{name} of {n}, all stays", name, n, True, {"weight": [0, *weights]}
        yield f"ram of {n}", "ram", n, True, {"epsilon": [1e-3]}
        yield f"ramplus_tl of {n}", "ramplus_tl", n, True, {"epsilon": [1e-3], "r": [0.3], "alpha": [0.5]}
        for share in (0, 0.3, 1):
            yield f"sce of {n}, {share}", "sce", n, True, {"select_topk": [share]}
        if n > 1:
            yield f"model_stock of {n}", "model_stock", n, True, {}
            yield f"model_stock of {n}, filter_wise", "model_stock", n, True, {"filter_wise": [1]}
    yield "arcee_fusion", "arcee_fusion", 1, True, {}
    yield "passthrough", "passthrough", 1, False, {}
    yield "passthrough, scaled", "passthrough", 1, False, {"scale": [0.37]}


def run(command, jobs):
    done = subprocess.run(command, input="".join(json.dumps(job) + "\n" for job in jobs), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def unit(value, bits):
    """Of the last place of a value."""
    import math
    return 2.0 ** (max(math.frexp(abs(value))[1] - 1, -126 if bits != 10 else -14) - bits)


def compare(job, mine, theirs):
    """(largest difference in units in the last place, values that differ at all)"""
    bits, largest, unequal = BITS[job["dtype"]], 0.0, 0
    for index, (x, y) in enumerate(zip(mine, theirs, strict=True)):
        if x != y:
            scale = max(abs(x), abs(y), *(abs(values[index]) for values in job["inputs"]))
            largest = max(largest, abs(x - y) / unit(scale, bits))
            unequal += 1
    return largest, unequal


def make_jobs(python, shapes, only=""):
    made = json.loads(subprocess.run([python, "-c", TENSORS, "7", json.dumps(shapes)], capture_output=True, text=True, check=True).stdout)
    for name, method, models, base, values in cases():
        if only not in name:
            continue
        for tensors in made:
            inputs = tensors["rows"][0 if base else 1:][:models + base]
            yield {"name": name, "method": method, "shape": tensors["shape"], "dtype": tensors["dtype"], "base": 0 if base else None,
                   "inputs": inputs, "values": values, "seed": 1, "rows": 7}


def write(path, python):
    """Inputs once for each type, by the first that is used; then the jobs."""
    jobs = [job for job in make_jobs(python, [[6, 9]])]
    tensors = {dtype: [] for dtype in BITS}
    lines = []
    for job, values in zip(jobs, run([python, "-c", THEIRS], jobs), strict=True):
        if isinstance(values, dict):
            continue
        rows = tensors[job["dtype"]]
        rows += [row for row in job["inputs"] if row not in rows]
        lines.append({**{key: job[key] for key in ("name", "method", "dtype", "base", "values")}, "inputs": [rows.index(row) for row in job["inputs"]],
                      "result": values})
    text = json.dumps({"from": "mergekit 0.1.5, tests/merge/methods.py --write", "shape": [6, 9], "tensors": tensors})[:-1]
    with open(path, "w") as file:
        file.write(text + ', "jobs": [\n' + ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n]}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("python")
    parser.add_argument("-k", default="")
    parser.add_argument("--allow", type=float, default=2.0)
    parser.add_argument("--write")
    a = parser.parse_args()
    if a.write:
        return write(a.write, a.python)
    jobs = list(make_jobs(a.python, SHAPES, a.k))
    mine, theirs = run([a.program], jobs), run([a.python, "-c", THEIRS], jobs)
    passed, failed, worst = 0, 0, collections.defaultdict(lambda: [0.0, 0, 0])
    for job, x, y in zip(jobs, mine, theirs, strict=True):
        if isinstance(y, dict):
            print(f"      {job['name']}, {job['dtype']} {job['shape']}: mergekit: {y['error'][:120]}")
            continue
        largest, unequal = compare(job, x, y)
        row = worst[job["method"], job["dtype"]]
        row[0], row[1], row[2] = max(row[0], largest), row[1] + unequal, row[2] + len(x)
        if largest <= a.allow:
            passed += 1
        else:
            failed += 1
            print(f"FAIL  {job['name']}, {job['dtype']} {job['shape']}: {largest:.1f} units, {unequal} of {len(x)} values differ")
    for (method, dtype), (largest, unequal, count) in worst.items():
        print(f"{method:18} {dtype:9} at most {largest:4.1f} units in the last place; {100 * unequal / count:5.1f} % of {count} values differ at all")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
