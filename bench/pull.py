#!/usr/bin/env python3
"""Times `moerge pull` against curl and `hf download`, over loopback from the tests' own Hub.

usage: pull.py MOERGE_BINARY [--hf HF_PROGRAM] [--size GB] [--files N] [--rounds N] [--folder FOLDER]

Prints medians of wall and CPU seconds (user + system, of the client alone) and peak memory, and each client's ratio to curl.
curl writes what it gets and checks nothing; `hf` looks at sizes; moerge hashes every byte.
"""
import argparse, os, shutil, statistics
from pathlib import Path

import measure

REPO = "tester/large"


def make_model(folder, size, files):
    folder.mkdir()
    piece = os.urandom(1 << 20)
    for number in range(files):
        with open(folder / f"model-{number}.safetensors", "wb") as out:
            for i in range(int(size * 1e9 / files) >> 20):
                out.write(number.to_bytes(4, "little") + i.to_bytes(4, "little") + piece[8:])
    (folder / "config.json").write_text("{}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="MOERGE_BINARY", type=Path)
    parser.add_argument("--hf", help="huggingface_hub's program, in a virtual environment of its own")
    parser.add_argument("--size", type=float, default=2, metavar="GB")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the files lie meanwhile (the system's temporary folder)")
    arguments = parser.parse_args()
    with measure.a_hub(arguments.folder) as (root, url):
        make_model(root / "model", arguments.size, arguments.files)
        measure.ask(url + "/_seed", "POST", {"id": REPO, "folder": str(root / "model")})
        shutil.rmtree(root / "model")
        names = [f"model-{number}.safetensors" for number in range(arguments.files)]
        curl = ["curl", "-sfL", "--parallel"]
        for name in names:
            curl += ["-o", root / "got" / name, f"{url}/{REPO}/resolve/main/{name}"]
        commands = {"curl": curl, "moerge": [arguments.binary.resolve(), "pull", REPO, "--cache", root / "got", "--quiet"]}
        if arguments.hf:
            commands["hf"] = [arguments.hf, "download", REPO, "--cache-dir", root / "got", "--quiet"]
        measured = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                (root / "got").mkdir()
                measured[name].append(measure.run(command, HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1", no_proxy="*",
                                                  HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1"))
                shutil.rmtree(root / "got")
        medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}
        print(f"{arguments.size} GB in {arguments.files} files, median of {arguments.rounds}")
        for name, (wall, cpu, peak, _) in medians.items():
            print(f"{name:8} {wall:6.2f} s wall {cpu:6.2f} s CPU {peak:6.0f} MB peak   "
                  f"{wall / medians['curl'][0]:.2f} x wall, {cpu / medians['curl'][1]:.2f} x CPU of curl")


if __name__ == "__main__":
    main()
