#!/usr/bin/env python3
"""Runs `moerge gguf` on every case and compares its files with what llama.cpp's converter writes (see README.md).

usage: check.py MOERGE_BINARY [--case NAME ...] [--keep DIR] [--auto]

Needs nothing but Python's standard library. Prints one line a case, the reasons of a failure under it, and at the end
"N passed, M failed" alone on a line; exits 0 only if nothing failed. --keep DIR leaves models and files in DIR. --auto
also compares which type `--type auto` takes, for the cases that say so.
"""
import argparse, json, os, subprocess, sys, tempfile

import models
import reader
import suite

HERE = os.path.dirname(os.path.abspath(__file__))
TYPES = ["f32", "f16", "bf16", "q8_0"]
SHOWN = 12  # differences that are printed of one case

# Arrays in which the converter's order is that of a Python set, which differs from run to run.
UNORDERED = {"tokenizer.chat_templates"}


def source_folder(case, parent, layout=None):
    """The model folder that is converted: one of tests/golden, or a new one inside `parent`."""
    if "golden" in case:
        return os.path.join(os.path.dirname(HERE), "golden", "models", case["golden"])
    return models.write_model(case, parent, layout)


def key_of(file, name):
    """A key as it is recorded: [type, value or its hashes]; None where the file lacks it."""
    if name not in file.keys:
        return None
    v = file.keys[name]
    if name in UNORDERED:
        return [v.type, sorted(v.value)]
    return v.canonical()


def of_type(row, type_name):
    """One type's entry of a record's row, which has "all" where the types agree."""
    return row["all"] if "all" in row else row[type_name]


class Differences:
    """What is wrong with one case, the same sentence about several types once."""

    def __init__(self):
        self.types = {}

    def add(self, type_name, text):
        self.types.setdefault(text, []).append(type_name)

    def lines(self):
        for text, types in self.types.items():
            yield text if len(types) == len(TYPES) else f"{', '.join(types)}: {text}"


def shown(value, limit=160):
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):  # a record of a long value
        value = [value[0], " ".join(f"{n} {k}" for k, n in value[1].items() if k in ("count", "bytes"))]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def where(expected, file, name):
    """For a long array: what the file has in the first stretch that differs."""
    found = file.keys[name]
    if not (isinstance(expected[1], dict) and "blocks" in expected[1] and found.type == expected[0]):
        return shown([found.type, found.value])
    count, mine = expected[1]["count"], reader.summary(found)
    if count != len(found.value):
        return f"{len(found.value)} elements instead of {count}"
    step = reader.block_length(count)
    blocks = mine["blocks"].split() if isinstance(mine, dict) else []
    bad = [i * step for i, (a, b) in enumerate(zip(expected[1]["blocks"].split(), blocks)) if a != b]
    if not bad:
        return "other bytes"
    stretches = f"{len(bad)} stretches of {step}, first " if len(bad) > 1 else ""
    return f"{stretches}[{bad[0]}..{min(bad[0] + step, count) - 1}] = {shown(found.value[bad[0]:bad[0] + step], 400)}"


def compare(record, file, type_name, wrong):
    for name, row in record["keys"].items():
        expected, found = of_type(row, type_name), key_of(file, name)
        if expected == found:
            continue
        if found is None:
            wrong.add(type_name, f"{name}: missing, expected {shown(expected)}")
        elif expected is None:
            wrong.add(type_name, f"{name}: expected none, found {shown(found)}")
        else:
            wrong.add(type_name, f"{name}: expected {shown(expected)}, found {where(expected, file, name)}")
    for name in file.keys:
        if name not in record["keys"]:
            wrong.add(type_name, f"{name}: expected none, found {shown(key_of(file, name))}")
    for name, row in record["tensors"].items():
        if name not in file.tensors:
            wrong.add(type_name, f"{name}: missing, expected ne {row['ne']}")
            continue
        found = file.tensors[name]
        want_type, want_hash = of_type(row, type_name).split()
        if [want_type, row["ne"]] != [found.type, found.ne]:
            wrong.add(type_name, f"{name}: expected {want_type} {row['ne']}, found {found.type} {found.ne}")
        elif want_hash != found.sha():
            wrong.add(type_name, f"{name}: {found.type} {found.ne}, other bytes")
    for name, t in file.tensors.items():
        if name not in record["tensors"]:
            wrong.add(type_name, f"{name}: expected none, found {t.type} {t.ne}")


def run_moerge(binary, source, out, types):
    """What moerge ends with: (exit status, stderr)."""
    command = [binary, "gguf", source, out, "--type", ",".join(types)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    return run.returncode, run.stderr.rstrip()


def written(out, type_name):
    """The file of that type, by its ending."""
    ending = f".{type_name.upper()}.gguf"
    return [os.path.join(out, f) for f in sorted(os.listdir(out)) if f.endswith(ending)]


def check_case(case, binary, folder, with_auto):
    wrong = Differences()
    with open(os.path.join(HERE, "cases", f"{case['name']}.json"), encoding="utf-8") as f:
        record = json.load(f)
    source, out = source_folder(case, folder), os.path.join(folder, "out")
    status, errors = run_moerge(binary, source, out, TYPES)
    if status != 0:
        return [f"exit status: expected 0, found {status}; stderr:\n{errors}"]
    for t in TYPES:
        files = written(out, t)
        if len(files) != 1:
            wrong.add(t, f"expected one file of this type, found {sorted(os.listdir(out))}")
            continue
        try:
            compare(record, reader.File(files[0]), t, wrong)
        except reader.BadFile as e:
            wrong.add(t, f"not a sound GGUF file: {e}")
    if with_auto and "auto" in record["case"]:
        out = os.path.join(folder, "auto")
        status, errors = run_moerge(binary, source, out, ["auto"])
        if status != 0:
            wrong.add("auto", f"exit status: expected 0, found {status}; stderr:\n{errors}")
        elif not written(out, record["case"]["auto"]):
            wrong.add("auto", f"expected {record['case']['auto']}, found {sorted(os.listdir(out))}")
    return list(wrong.lines())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary", metavar="MOERGE_BINARY")
    ap.add_argument("--case", action="extend", nargs="+", choices=sorted(suite.BY_NAME), metavar="NAME",
                    help="only these cases")
    ap.add_argument("--keep", metavar="DIR", help="leave the models and the files in DIR")
    ap.add_argument("--auto", action="store_true", help="check --type auto, too")
    args = ap.parse_args()
    binary = os.path.abspath(args.binary)
    if not os.access(binary, os.X_OK):
        sys.exit(f"{args.binary}: not an executable file")

    if args.keep and os.path.exists(args.keep) and os.listdir(args.keep):
        sys.exit(f"{args.keep}: not empty")

    failed = 0
    selected = args.case or list(suite.BY_NAME)
    for name in selected:
        with tempfile.TemporaryDirectory(prefix="moerge-gguf-") as temp:
            folder = os.path.join(args.keep, name) if args.keep else temp
            os.makedirs(folder, exist_ok=True)
            try:
                wrong = check_case(suite.BY_NAME[name], binary, folder, args.auto)
            except Exception as e:  # an output so broken that it cannot be read must not hide the other cases
                wrong = [f"{type(e).__name__}: {e}"]
        failed += bool(wrong)
        print(f"FAIL {name}: {suite.BY_NAME[name]['why']}" if wrong else f"ok {name}", flush=True)
        for text in wrong[:SHOWN]:
            print(f"  {text}")
        if len(wrong) > SHOWN:
            print(f"  ... and {len(wrong) - SHOWN} more")
    print(f"{len(selected) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
