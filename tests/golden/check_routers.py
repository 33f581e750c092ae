#!/usr/bin/env python3
"""Builds every case of routers/ and compares the rows of gate modes router_input and ridge with a float64 reference.

usage: check_routers.py MOERGE_BINARY [--case NAME ...]

Needs nothing but Python's standard library; make_routers.py made the reference. Prints one line a case and at the end
"N passed, M failed" alone on a line; exits 0 only if nothing failed.
"""
import argparse, hashlib, math, os, subprocess, sys, tempfile

sys.dont_write_bytecode = True
from check import HERE, cosine, read_bytes, read_checkpoint, read_json, stored_tensor

FOLDER = os.path.join(HERE, "routers")
LOWEST_COSINE, LENGTH = 0.9999, 0.01


class Wrong(Exception):
    pass


class Strict:
    """What read_checkpoint() tells of a damaged file."""

    def expect(self, what, expected, found):
        if expected != found:
            raise Wrong(f"{what}: expected {expected}, found {found}")


def router_rows(tensors, layer):
    """The rows of one layer, that of a shared expert last."""
    prefix = f"model.layers.{layer}."
    routers = [prefix + name for name in ("block_sparse_moe.gate.weight", "mlp.gate.weight") if prefix + name in tensors]
    if len(routers) != 1:
        raise Wrong(f"layer {layer}: expected one router, found {routers}")
    shared = tensors.get(prefix + "mlp.shared_expert_gate.weight")
    return tensors[routers[0]].rows() + (shared.rows() if shared else [])


def check_case(name, binary):
    """(lowest cosine, largest difference of the lengths' ratio from 1)"""
    folder = os.path.join(FOLDER, name)
    case = read_json(os.path.join(folder, "rows.json"))
    if hashlib.sha256(read_bytes(os.path.join(folder, "config.yaml"))).hexdigest() != case["config_sha256"]:
        raise Wrong("config.yaml is not the one that the reference was made for: run make_routers.py again")
    layers, experts, _ = case["rows"]["shape"]
    expected = stored_tensor(case["rows"]).rows()
    with tempfile.TemporaryDirectory(prefix="moerge-routers-") as temp:
        out = os.path.join(temp, "out")
        run = subprocess.run([binary, "moe", "config.yaml", out, "--quiet"], cwd=folder, capture_output=True, text=True,
                             errors="replace", timeout=600)
        if run.returncode != 0:
            raise Wrong(f"exit status {run.returncode}; stderr:\n{run.stderr.rstrip()}")
        tensors = read_checkpoint(out, Strict())
    worst_cosine, worst_length, wrong = 1.0, 0.0, []
    for layer in range(layers):
        found = router_rows(tensors, layer)
        if len(found) != experts:
            raise Wrong(f"layer {layer}: expected {experts} rows, found {len(found)}")
        for e, (want, have) in enumerate(zip(expected[layer * experts:], found)):
            c = cosine(want, have)
            ratio = math.sqrt(math.fsum(x * x for x in have) / math.fsum(x * x for x in want))
            worst_cosine, worst_length = min(worst_cosine, c), max(worst_length, abs(ratio - 1))
            if not (c >= LOWEST_COSINE and abs(ratio - 1) <= LENGTH):  # nan fails, too
                wrong.append(f"layer {layer} row {e}: cosine {c:.6f} (expected >= {LOWEST_COSINE}), {ratio:.4f} times as long")
    if wrong:
        raise Wrong("\n  ".join(wrong[:20]))
    return worst_cosine, worst_length


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary", metavar="MOERGE_BINARY")
    ap.add_argument("--case", action="append", help="only this case; may be given again")
    args = ap.parse_args()
    binary = os.path.abspath(args.binary)
    if not os.access(binary, os.X_OK):
        sys.exit(f"{args.binary}: not an executable file")
    names = sorted(os.listdir(FOLDER))
    for name in args.case or []:
        if name not in names:
            sys.exit(f"no case {name}; there are: {' '.join(names)}")

    failed = 0
    selected = args.case or names
    for name in selected:
        try:
            c, length = check_case(name, binary)
            print(f"ok {name} (lowest cosine {c:.7f}, lengths within {100 * length:.3f} %)", flush=True)
        except Exception as e:  # an output so broken that it cannot be read must not hide the other cases
            failed += 1
            print(f"FAIL {name}\n  {e if isinstance(e, Wrong) else f'{type(e).__name__}: {e}'}", flush=True)
    print(f"{len(selected) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
