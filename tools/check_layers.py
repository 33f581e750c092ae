#!/usr/bin/env python3
"""Checks the layers of ARCHITECTURE.md: a folder includes only folders of lower rank, third-party types stop at one folder,
no two headers define types of one name (the linker would quietly mix them up), and files stay readable. Prints each violation and exits 1, or prints nothing and exits 0."""
import pathlib
import re
import sys

RANK = {"base": 0, "tensor": 1, "formats": 2, "model": 3, "plan": 4, "engine": 4, "hub": 4, "merge": 5, "moe": 5, "export": 5, "serve": 5, "eval": 5, "cli": 6}
# Headers of third parties, and the only folders that may include them. JSON is a type of base/json.h.
BORDERS = [
    (re.compile(r"^ggml\.h"), {"tensor", "engine", "serve"}),  # tensor/ has the quantisation kernels
    (re.compile(r"^(ggml-|gguf|llama)"), {"engine", "serve", "testing"}),
    (re.compile(r"^(server-|cpp-httplib|(chat|console|sampling)\.h)"), {"serve"}),
    (re.compile(r"^(arg|common|log)\.h"), {"engine", "serve"}),  # flags in llama.cpp's spelling
    (re.compile(r"^jinja/"), {"engine"}),
    (re.compile(r"^yaml-cpp/"), {"base"}),
    (re.compile(r"^Eigen/"), {"tensor"}),
    (re.compile(r"^CLI/"), {"cli"}),
    (re.compile(r"^moerge_rust\.h"), {"model", "hub", "eval"}),
    (re.compile(r"^nlohmann/"), {"base"}),
]
MAX_LINES = 600
INCLUDE = re.compile(r'^#include [<"]([^>"]+)[>"]')
TYPE = re.compile(r"^(?:struct|class|enum class) (\w+)\b(?!::)[^;]*$")  # a definition, at namespace level

root = pathlib.Path(__file__).resolve().parent.parent
problems, types = [], {}
for path in sorted((root / "moerge").rglob("*.[hc]*")):
    if path.suffix not in (".h", ".cpp"):
        continue
    folder = path.relative_to(root / "moerge").parts[0]
    lines = path.read_text().splitlines()
    where = path.relative_to(root)
    if len(lines) > MAX_LINES:
        problems.append(f"{where}: {len(lines)} lines, at most {MAX_LINES}")
    for number, line in enumerate(lines, 1):
        if path.suffix == ".h" and folder != "testing" and (defined := TYPE.match(line)):
            first = types.setdefault(defined.group(1), where)
            if first != where:
                problems.append(f"{where}:{number}: {first} has a type {defined.group(1)} as well")
        found = INCLUDE.match(line)
        if not found:
            continue
        header = found.group(1)
        for pattern, allowed in BORDERS:
            if pattern.match(header) and folder not in allowed:
                problems.append(f"{where}:{number}: {header} belongs to {', '.join(sorted(allowed))}/")
        parts = header.split("/")
        if parts[0] != "moerge" or folder == "testing":
            continue
        if parts[1] == "testing":
            if not path.name.endswith("_test.cpp"):
                problems.append(f"{where}:{number}: test helpers in a file that is no test")
        elif parts[1] not in RANK:
            problems.append(f"{where}:{number}: {parts[1]}/ has no rank in tools/check_layers.py")
        elif parts[1] != folder and RANK[parts[1]] >= RANK[folder]:
            problems.append(f"{where}:{number}: {folder}/ must not include {parts[1]}/")
print("\n".join(problems), end="\n" if problems else "")
sys.exit(1 if problems else 0)
