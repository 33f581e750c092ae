#!/usr/bin/env python3
"""Tests moerge from its command line: every message, every exit code, and what is on the disk afterwards.

usage: run.py MOERGE_BINARY [-k SUBSTRING]

Needs nothing but Python's standard library. Prints what failed and what this machine cannot show, and at the end
"N passed, M failed" alone on a line; exits 0 only if nothing failed. With -k only tests whose name ("test_yaml.a_list",
say) contains the text. How a test is written: harness.py; what it is made of: tiny_models.py; the tests: test_*.py, one
file a subject.
"""
import argparse, concurrent.futures, importlib, os, sys, traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import harness


def find_tests():
    """Name -> function of one argument, a Case."""
    tests = {}
    for file in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(file.stem)
        for name, function in vars(module).items():
            if not name.startswith("test_"):
                continue
            table = getattr(function, "rows", None)
            full = f"{file.stem}.{name.removeprefix('test_')}"
            if table is None:
                tests[full] = function
            else:
                for row, arguments in table.items():
                    tests[f"{full}[{row}]"] = lambda case, f=function, a=arguments: f(case, *a)
    return tests


def run_test(function, binary):
    """None when it passed, "skipped: ..." or the reason of the failure."""
    case = harness.Case(binary)
    try:
        function(case)
    except harness.Skipped as reason:
        return f"skipped: {reason}"
    except AssertionError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name.startswith("test_")]
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {error or frames[-1].line}"
    except Exception:  # a test that breaks must not hide the others
        return traceback.format_exc()
    finally:
        case.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="MOERGE_BINARY", type=Path)
    parser.add_argument("-k", metavar="SUBSTRING", default="", help="only tests whose name contains this")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve()
    if not os.access(binary, os.X_OK):
        sys.exit(f"{arguments.binary}: not an executable file")
    tests = {name: function for name, function in find_tests().items() if arguments.k in name}
    if not tests:
        sys.exit(f"no test has \"{arguments.k}\" in its name")
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        running = {pool.submit(run_test, function, binary): name for name, function in tests.items()}
        for done in concurrent.futures.as_completed(running):
            reason = done.result()
            if reason is None:
                passed += 1
            elif reason.startswith("skipped: "):
                print(f"{running[done]} {reason}", flush=True)
            else:
                failed += 1
                print(f"FAIL {running[done]}\n{reason}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
