#!/usr/bin/env python3
"""Data sets of a Hub: their files against huggingface_hub, their rows against the `datasets` library.

usage: data_sets.py DATA_ROWS MOERGE PYTHON [-k SUBSTRING]

DATA_ROWS: cmake --build build/release --target data_rows. PYTHON has huggingface_hub, datasets and pyarrow.
"""
import argparse, json, random, sys, tempfile, traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
import fakehub, witness
from tiny_parquet import parquet
from witness import Witnesses, cache_of, cache_tree, differences, environment

NAME, REPO = "tester/items", "datasets/tester/items"
MARK = "rows that follow:"
# What data_rows prints, with the `datasets` library on a folder.
LIBRARY = """
import json, sys
from datasets import load_dataset
folder, name, split = sys.argv[1:]
print(%r)
for row in load_dataset(folder, name or None, split=split):
    print(json.dumps(row))
""" % MARK
# Files of every kind that pyarrow writes, with the values that data sets have.
WRITER = """
import sys
import pyarrow, pyarrow.parquet
rows = [{"q": f"question {i} \\u00fc", "choices": {"text": ["a", "b", "c"][:i % 4], "label": ["A"] * (i % 4)}, "label": i % 2,
         "score": i / 7 if i % 5 else None, "right": i % 3 == 0, "nested": [[i], [], [i, i]] if i % 2 else None,
         "pairs": [{"n": i, "t": "x" * i}]} for i in range(2500)]
for i, how in enumerate([{"compression": "snappy"}, {"compression": "zstd", "data_page_version": "2.0", "use_dictionary": False},
                         {"compression": "none", "data_page_version": "2.0"}]):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[i::3]), f"{sys.argv[1]}/test-0000{i}-of-00003.parquet",
                                row_group_size=400, data_page_size=2000, **how)
"""


def lines(*texts):
    return "".join(json.dumps({"q": text}) + "\n" for text in texts).encode()


def card(*configs):
    """A README.md whose front matter names configurations: (name, {split: pattern or patterns} or a text)."""
    rows = [{"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]
             if isinstance(files, dict) else files} for name, files in configs]
    return f"---\nconfigs: {json.dumps(rows)}\n---\n# Items\n".encode()


TABLE = parquet([("q", "text", ["p1", None]), ("c", "texts", [["x", "y"], []])])
# Files, configuration, split: what both must read alike.
LAYOUTS = {
    "card": ({"README.md": card(("main", {"test": "a/test*", "train": ["a/train*", "b/*"]}), ("other", {"test": "b/**"})),
              "a/test.jsonl": lines("t"), "a/train-2.jsonl": lines("2"), "a/train-1.jsonl": lines("1"), "b/c.jsonl": lines("c")},
             [("main", "test"), ("main", "train"), ("other", "test")]),
    "default": ({"README.md": card(("one", {"test": "a.jsonl"}), ("default", {"test": "b.jsonl"})), "a.jsonl": lines("a"),
                 "b.jsonl": lines("b")}, [("", "test"), ("one", "test")]),
    "no split": ({"README.md": card(("one", "*.jsonl")), "a.jsonl": lines("a"), "b.jsonl": lines("b"), "c.json": b"[]"},
                 [("one", "train"), ("", "train")]),
    "shards": ({f"data/{split}-0000{i}-of-00002.parquet": TABLE for split in ("test", "train", "odd") for i in (0, 1)},
               [("", "test"), ("", "odd")]),
    "names": ({"dev.jsonl": lines("d"), "x/my-test.jsonl": lines("t"), "README.md": b"# Text", ".hidden/test.jsonl": lines("h")},
              [("", "validation"), ("", "test")]),
    "folders": ({"test/a.jsonl": lines("a"), "test/x/b.jsonl": lines("b"), "training/c.jsonl": lines("c"), "eval.txt": b"text"},
                [("", "test"), ("", "train")]),
    "nothing": ({"some.jsonl": lines("a"), "more/b.jsonl": lines("b"), "config.json": b"{}"}, [("", "train")]),
    "list": ({"test.json": b'[{"q": "a"}, {"q": null}]'}, [("", "test")]),
    "lines in json": ({"test.json": lines("a", "b")}, [("", "test")]),
}


class Checks:
    def __init__(self, folder, rows, moerge, python):
        self.folder, self.data_rows = Path(folder), str(Path(rows).resolve())
        self.witnesses = Witnesses(folder, moerge)
        self.witnesses.python = Path(python).absolute()
        self.count = 0

    def fresh(self, what):
        self.count += 1
        path = self.folder / f"{what}-{self.count}"
        path.mkdir()
        return path

    def write(self, files):
        folder = self.fresh("files")
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def variables(self, hub, home, **more):
        return environment(home, hub.url if hub else witness.NOBODY, **more)

    def rows(self, variables, configuration, split, fewshot="", revision="main", folder=None, code=0):
        command = [self.data_rows, NAME, configuration, split, fewshot, revision] + ([folder] if folder else [])
        done = self.witnesses.run(command, variables, code)
        return done.stderr if code else (done.stdout.splitlines()[0], [json.loads(it) for it in done.stdout.splitlines()[1:]])

    def library(self, folder, configuration, split):
        command = [self.witnesses.python, "-c", LIBRARY, folder, configuration, split]
        done = self.witnesses.run(command, self.variables(None, self.fresh("home"), HF_HUB_OFFLINE="1"))
        return [json.loads(it) for it in done.stdout.split(MARK + "\n", 1)[1].splitlines()]

    # ---------------------------------------------------------------------------------------------------------- checks

    def layout(self, files, splits):
        folder, home = self.write(files), self.fresh("home")
        with fakehub.start(self.fresh("hub")) as hub:
            commit = hub.seed(REPO, folder)
            for configuration, split in splits:
                expected = self.library(folder, configuration, split)
                revision, rows = self.rows(self.variables(hub, home), configuration, split)
                assert rows == expected, f"{configuration} {split}: {rows}, expected {expected}"
                assert revision == commit, revision
                assert self.rows(self.variables(None, home, HF_HUB_OFFLINE="1"), configuration, split) == (revision, rows)

    def parquet(self):
        folder = self.fresh("files")
        (folder / "data").mkdir()
        self.witnesses.run([self.witnesses.python, "-c", WRITER, folder / "data"], self.variables(None, self.fresh("home")))
        copy = self.fresh("copies")
        (copy / NAME).parent.mkdir()
        (copy / NAME).symlink_to(folder)
        expected = self.library(folder, "", "test")
        assert len(expected) == 2500
        _, rows = self.rows(self.variables(None, self.fresh("home")), "", "test", folder=copy)
        for row, other in zip(rows, expected, strict=True):
            assert row == other, f"{row}, expected {other}"

    def same_cache(self):
        files = {"README.md": card(("main", {"test": "a/*"})), "a/test.jsonl": lines("t"), "big.parquet": random.Random(1).randbytes(300_000)}
        with fakehub.start(self.fresh("hub")) as hub:
            hub.seed(REPO, self.write(files))
            homes = {name: self.fresh("home") for name in ("moerge", "python", "rows", "patterns")}
            self.witnesses.run([self.witnesses.moerge, "pull", NAME, "--repo-type", "dataset"], self.variables(hub, homes["moerge"]))
            self.witnesses.python_download(NAME, self.variables(hub, homes["python"]), repo_type="dataset")
            self.rows(self.variables(hub, homes["rows"]), "main", "test")
            patterns = ["README.md", "a/*"]
            self.witnesses.python_download(NAME, self.variables(hub, homes["patterns"]), repo_type="dataset", allow_patterns=patterns)
            trees = {name: cache_tree(cache_of(home)) for name, home in homes.items()}
            for one, other in (("moerge", "python"), ("rows", "patterns")):
                assert trees[one] == trees[other], differences(trees[one], trees[other], one, other)
            offline = self.variables(None, homes["python"], HF_HUB_OFFLINE="1")
            assert self.rows(offline, "main", "test")[1] == [{"q": "t"}]

    def only_what_is_needed(self):
        files = {"README.md": b"", "test.jsonl": lines("t"), "train.jsonl": lines("s"), "validation.jsonl": lines("v")}
        with fakehub.start(self.fresh("hub")) as hub:
            hub.seed(REPO, self.write(files))
            home = self.fresh("home")
            hub.clear()
            assert self.rows(self.variables(hub, home), "", "test", "train")[1] == [{"q": "t"}, {"q": "s"}]
            assert not [it for it in hub.log() if "validation" in it["path"]]
            hub.clear()
            self.rows(self.variables(hub, home), "", "test", "train")
            assert not [it for it in hub.log() if "/resolve" in it["path"]], hub.log()
        # The Hub is away: the cache, with a warning.
        assert self.rows(self.variables(None, home), "", "test", "train")[1] == [{"q": "t"}, {"q": "s"}]

    def export(self):
        with fakehub.start(self.fresh("hub")) as hub:
            hub.seed(REPO, self.write({"items.py": b"import os", "test.jsonl": lines("raw")}))
            home = self.fresh("home")
            error = self.rows(self.variables(hub, home), "main", "test", code=2)
            assert 'task: the data set "tester/items" is made by a Python program in it, which is not run' in error, error
            commit = hub.seed(REPO, self.write({"main/test/0000.parquet": TABLE, "main/partial-train/0000.parquet": TABLE}),
                              branch="refs/convert/parquet")
            revision, rows = self.rows(self.variables(hub, home), "main", "test", "train")
            assert revision == commit and len(rows) == 4, (revision, rows)
            assert (cache_of(home) / "datasets--tester--items/refs/refs/convert/parquet").read_text() == commit
            error = self.rows(self.variables(hub, home), "mian", "test", code=2)
            assert 'in Parquet has no configuration "mian" (dataset_name); did you mean "main"?' in error, error
            offline = self.variables(None, home, HF_HUB_OFFLINE="1")
            assert self.rows(offline, "main", "test", "train") == (revision, rows)

    def refusals(self):
        with fakehub.start(self.fresh("hub")) as hub:
            home = self.fresh("home")
            stranger = self.variables(hub, home, token=None)
            error = self.rows(stranger, "", "test", code=2)
            assert 'task: "tester/items": there is no such data set at' in error and "HF_TOKEN" in error, error
            hub.seed(REPO, self.write({"train.jsonl": lines("a"), "test.csv": b"q\n1\n"}), gated=True)
            error = self.rows(stranger, "", "train", code=2)
            assert f"the data set is gated: accept its licence at {hub.url}/{REPO}" in error, error
            hub.meta(REPO, gated=False)
            error = self.rows(stranger, "", "validation", code=2)
            assert 'task: the data set "tester/items" has no split "validation"; there are: train, test' in error, error
            error = self.rows(stranger, "", "test", code=2)
            assert '"test.csv", its split "test", is no .jsonl, .json or .parquet file' in error, error
            error = self.rows(stranger, "", "train", revision="v7", code=2)
            assert 'there is no branch, tag or commit "v7"' in error, error
            commit = hub.head(REPO)
            assert self.rows(stranger, "", "train", revision=commit)[0] == commit

    def all(self):
        for name, (files, splits) in LAYOUTS.items():
            yield f"layout: {name}", lambda files=files, splits=splits: self.layout(files, splits)
        for check in (self.parquet, self.same_cache, self.only_what_is_needed, self.export, self.refusals):
            yield check.__name__.replace("_", " "), check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", metavar="DATA_ROWS")
    parser.add_argument("moerge", metavar="MOERGE")
    parser.add_argument("python", metavar="PYTHON")
    parser.add_argument("-k", metavar="SUBSTRING", default="", help="only checks whose name contains this")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moerge-data-") as folder:
        for name, check in Checks(folder, arguments.rows, arguments.moerge, arguments.python).all():
            if arguments.k not in name:
                continue
            try:
                check()
                print(f"ok   {name}", flush=True)
            except (AssertionError, OSError, ValueError) as error:
                failed += 1
                print(f"FAIL {name}\n{error if str(error) else traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
