#!/usr/bin/env python3
"""Runs `moerge merge` on every case of merge_cases.py and compares the whole output with what the real mergekit-yaml wrote.

usage: check_merges.py MOERGE_BINARY [--case NAME ...]    (a NAME may be the beginning of several: ties-, vocabulary-)

Needs nothing but Python's standard library; make_merges.py made the expectations, README.md says what is compared. Prints one line a
case, the reasons of a failure under it, and at the end "N passed, M failed" alone on a line; exits 0 only if nothing failed.
"""
import argparse, hashlib, math, os, subprocess, sys, tempfile

sys.dont_write_bytecode = True
from check import HERE, read_bytes, read_checkpoint, read_json, stored_tensor
from merge_cases import CASES, file_of, method_of
from merge_checks import Sample, read_config, read_tokenizer, unit
from merge_models import write_set

# Units in the last place that a value may differ by, of the largest of both values and of the models' own: a sum that nearly cancels out
# has no more digits than what it is made of. Methods that are not here: SAME. What is copied is the same to the bit, and so is
# everything in 16 bits but for products and sums that lie between two numbers; float32 differs by the order of long sums.
SAME = {"F32": 4, "BF16": 0, "F16": 0}
LONG_SUMS = {"F32": 8, "BF16": 0, "F16": 0}  # mergekit itself is up to 4 away from what it computes in float64
LARGEST = {
    "passthrough": {"F32": 0, "BF16": 0, "F16": 0},
    "linear": {"F32": 4, "BF16": 1, "F16": 1},
    "slerp": {"F32": 4, "BF16": 1, "F16": 1},
    "nearswap": {"F32": 4, "BF16": 2, "F16": 2},
    "karcher": {"F32": 1, "BF16": 1, "F16": 1},
    "nuslerp": LONG_SUMS,
    "multislerp": LONG_SUMS,
    "model_stock": LONG_SUMS,
}


class Report:
    """What is wrong with one case."""

    def __init__(self):
        self.wrong = []
        self.note = ""

    def expect(self, what, expected, found):
        self.expect_that(expected == found, what, expected, found)

    def expect_that(self, ok, what, expected, found):
        if not ok:
            self.wrong.append(f"{what}: expected {expected}, found {found}")


def check_layout(expected, tensors, report):
    """Names, types, shapes; the names of those that are as expected."""
    report.expect("tensors that mergekit writes and moerge does not", [], sorted(set(expected) - set(tensors)))
    report.expect("tensors that moerge writes and mergekit does not", [], sorted(set(tensors) - set(expected)))
    good = []
    for name in sorted(set(expected) & set(tensors)):
        want, have = expected[name], tensors[name]
        report.expect(f"{name}: type and shape", (want["dtype"], want["shape"]), (have.dtype, have.shape))
        if (want["dtype"], want["shape"]) == (have.dtype, have.shape):
            good.append(name)
    return good


def distance(want, have, inputs):
    """(largest difference in units in the last place, how many values differ); nothing but the same not-a-number is near one."""
    largest, unequal = 0.0, 0
    for index, (x, y) in enumerate(zip(want.values(), have.values(), strict=True)):
        if x == y or (math.isnan(x) and math.isnan(y)):
            continue
        scale = max(abs(x), abs(y), *(abs(values[index]) for values in inputs))
        largest = max(largest, abs(x - y) / unit(scale, want.dtype) if math.isfinite(scale) else math.inf)
        unequal += 1
    return largest, unequal


def check_values(case, expected, names, tensors, models, report):
    method, worst = method_of(case), 0.0
    for name in names:
        want, have = stored_tensor(expected[name]), tensors[name]
        if want.data == have.data:
            continue
        own = [model.tensors[name] for model in models.values() if name in model.tensors]
        inputs = [t.values() for t in own if t.shape == want.shape]
        largest, unequal = distance(want, have, inputs)
        worst = max(worst, largest)
        allowed = LARGEST.get(method, SAME)[want.dtype]
        report.expect_that(largest <= allowed, f"{name}: difference in units in the last place", f"<= {allowed}",
                           f"{largest:.1f} ({unequal} of {len(want.values())} values differ)")
    report.note = f"{len(names)} tensors, {worst:.1f} units apart"


def check_files(golden, out, report):
    """Copied files, byte for byte."""
    for name, sha256 in golden["files"].items():
        path = os.path.join(out, name)
        found = hashlib.sha256(read_bytes(path)).hexdigest() if os.path.exists(path) else "none"
        report.expect(f"{name}: sha256", sha256, found)


def check_tokenizer(case, golden, out, report):
    found, expected = read_tokenizer(out), golden["tokenizer"]
    if case.template_has:
        report.expect_that(case.template_has in (found["chat_template"] or ""), "chat template", f"one with {case.template_has}",
                           found["chat_template"])
    for key, value in expected.items():
        here = found[key]
        if key == "chat_template" and value and here:
            value, here = value.strip(), here.strip()
        report.expect(f"tokenizer: {key}", value, here)


def run_moerge(binary, folder, out, flags):
    command = [binary, "merge", "merge.yaml", out, "--quiet", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=600)


def check_sample(golden, case, binary, folder, models, report):
    sample = Sample(models["base"].tensors)
    for seed in range(Sample.CHECKED):
        out = os.path.join(folder, f"out{seed}")
        run = run_moerge(binary, folder, out, [*case.flags, "--random-seed", str(seed)])
        if run.returncode != 0:
            report.expect(f"exit status with --random-seed {seed}", 0, f"{run.returncode}; stderr:\n{run.stderr.rstrip()}")
            return
        sample.add({name: t.values() for name, t in read_checkpoint(out, report).items()})
    wrong, report.note = sample.compare(golden["sample"])
    report.wrong += wrong


def check_output(golden, case, binary, folder, models, report):
    out = os.path.join(folder, "out")
    run = run_moerge(binary, folder, out, case.flags)
    if case.refused:
        report.expect(f"exit status (mergekit: {golden['refused']})", 2, run.returncode)
        report.expect_that(not os.path.exists(out), "output folder of a refused merge", "none", "one")
        report.note = "refused: " + (run.stderr.strip().split("\n") or [""])[0]
        return
    if run.returncode != 0:
        report.expect("exit status", 0, f"{run.returncode}; stderr:\n{run.stderr.rstrip()}")
        return
    tensors = read_checkpoint(out, report)
    if "--out-shard-size" in case.flags:
        report.expect_that(os.path.exists(os.path.join(out, "model.safetensors.index.json")), "--out-shard-size", "several files", "one")
    names = check_layout(golden["tensors"], tensors, report)
    config = read_config(out)
    for key, value in {**golden["config"], **case.config}.items():
        report.expect(f"config.json: {key}", value, config[key])
    if case.tokens:
        check_tokenizer(case, golden, out, report)
    else:
        check_files(golden, out, report)
    if not case.draws:
        check_values(case, golden["tensors"], names, tensors, models, report)
    elif len(names) == len(tensors):
        check_sample(golden, case, binary, folder, models, report)


def check_case(name, binary):
    case, report = CASES[name], Report()
    golden = read_json(os.path.join(HERE, "merges", f"{file_of(name)}.json"))["cases"][name]
    with tempfile.TemporaryDirectory(prefix="moerge-merges-") as folder:
        models, models_sha256 = write_set(case.models, folder)
        found = (hashlib.sha256(case.yaml.encode()).hexdigest(), models_sha256)
        if found != (golden["config_sha256"], golden["models_sha256"]):
            report.wrong.append("the configuration or the models are not those that mergekit was run on: run make_merges.py again")
            return report
        with open(os.path.join(folder, "merge.yaml"), "w", encoding="utf-8") as f:
            f.write(case.yaml)
        check_output(golden, case, binary, folder, models, report)
    return report


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary", metavar="MOERGE_BINARY")
    ap.add_argument("--case", action="append", help="only cases that begin so; may be given again")
    args = ap.parse_args()
    binary = os.path.abspath(args.binary)
    if not os.access(binary, os.X_OK):
        sys.exit(f"{args.binary}: not an executable file")
    selected = [name for name in CASES if not args.case or name.startswith(tuple(args.case))]
    if not selected:
        sys.exit(f"no case {' '.join(args.case)}; there are: {' '.join(CASES)}")

    failed = 0
    for name in selected:
        try:
            report = check_case(name, binary)
            wrong, note = report.wrong, report.note
        except Exception as e:  # an output so broken that it cannot be read must not hide the other cases
            wrong, note = [f"{type(e).__name__}: {e}"], ""
        print(f"{'FAIL' if wrong else 'ok'} {name} ({note})", flush=True)
        for text in wrong[:20]:
            print(f"  {text}")
        if len(wrong) > 20:
            print(f"  ... and {len(wrong) - 20} more")
        failed += bool(wrong)
    print(f"{len(selected) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
