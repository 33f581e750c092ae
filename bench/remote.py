#!/usr/bin/env python3
"""Counts what `moerge moe --remote` takes from the Hub against a build that fetches its models whole, on the tests' own Hub.

usage: remote.py MOERGE_BINARY MODELS_FOLDER [--yaml NAME.yaml]

MODELS_FOLDER holds base, a, b, c and YAML files, as make_models.py writes them. Prints bytes sent by the Hub for a plan, a build
with --remote and one without, and whether both builds are the same to the last byte.
"""
import argparse, hashlib, json, os, re, shutil, subprocess, sys
from pathlib import Path

import measure



def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="MOERGE_BINARY", type=Path)
    parser.add_argument("models", metavar="MODELS_FOLDER", type=Path)
    parser.add_argument("--yaml", default="random.yaml")
    parser.add_argument("--folder", help="where everything lies meanwhile (the system's temporary folder)")
    arguments = parser.parse_args()
    with measure.a_hub(arguments.folder) as (root, url):
        yaml = (arguments.models / arguments.yaml).read_text()
        for model in sorted(it.parent for it in arguments.models.glob("*/config.json")):
            measure.ask(url + "/_seed", "POST", {"id": f"tester/{model.name}", "folder": str(model.resolve())})
            yaml = re.sub(rf"model: (\S*/)?{model.name}$", f"model: tester/{model.name}", yaml, flags=re.MULTILINE)
        (root / "moe.yaml").write_text(yaml)
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_CACHE": str(root / "cache"), "no_proxy": "*",
                       "MOERGE_CACHE": str(root / "moerge"), "OMP_WAIT_POLICY": "PASSIVE"}
        hashes = {}
        for name, command in {"plan": ["plan", "moe.yaml"], "--remote": ["moe", "moe.yaml", "remote", "--remote", "--quiet"],
                              "whole": ["moe", "moe.yaml", "whole", "--quiet"]}.items():
            measure.ask(url + "/_log", "DELETE")
            subprocess.run([arguments.binary.resolve(), *command], cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
            sent = sum(row["sent"] for row in json.loads(measure.ask(url + "/_log")))
            print(f"{name:10} {sent / 1e6:10.1f} MB", flush=True)
            if (root / name.strip("-")).exists():
                files = sorted((root / name.strip("-")).glob("*.safetensors"))
                hashes[name] = [hashlib.file_digest(open(file, "rb"), "sha256").hexdigest() for file in files]
                shutil.rmtree(root / name.strip("-"))
        print("the same to the last byte" if hashes["--remote"] == hashes["whole"] else "THE RESULTS DIFFER")
        sys.exit(hashes["--remote"] != hashes["whole"])


if __name__ == "__main__":
    main()
