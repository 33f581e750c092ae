"""moerge verify with manifests that are missing, hostile or of another version, and what it prints."""
import json, os

from harness import rows
from tiny_models import read_checkpoint
from verify_case import MANIFEST, SHARDS, built, edit_manifest, is_right, is_wrong, manifest, problems, verify


# ------------------------------------------------------------------------------------------------------- no or another manifest


def test_no_manifest(case):
    case.built(*SHARDS)
    verify(case).exits(1).says(f"moerge: out: no {MANIFEST} in it, so its bytes cannot be checked: a build with --verify writes one",
                               "its headers and index are in order: 29 tensors")
    sorted(case.path("out").glob("*.safetensors"))[0].unlink()
    verify(case).exits(1).says("what can be checked is not in order: out: shard ")


def test_no_folder(case):
    case.model("base")
    case.write("x.gguf", "x")
    verify(case, out="nosuch").exits(2).says('"nosuch"')
    verify(case, out="x.gguf").exits(2).says("x.gguf is a file: `moerge verify` compares model folders")
    case.run("verify").exits(2).says("OUT is required")
    verify(case, "--sorces").exits(2).says("did you mean --sources?")


def set_in(path, value):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value
    return change


HOSTILE = {
    "no object": ("[]", "a JSON object is expected"),
    "no JSON": ("{", "not valid JSON"),
    "deep": ("[" * 100, "JSON nested deeper than 64 levels"),
    "null": ("null", "a JSON object is expected"),
    "empty": ("{}", '"moerge_manifest" should be its format\'s number'),
    "no format": (set_in(["moerge_manifest"], "one"), "should be an integer"),
    "format 0": (set_in(["moerge_manifest"], 0), "should be its format's number"),
    "no tensors": (set_in(["tensors"], []), "it has no tensors"),
    "tensors as an object": (set_in(["tensors"], {}), '"tensors" should be a list'),
    "a number as a tensor": (set_in(["tensors", 0], 5), 'an object is expected where "name" belongs'),
    "no files": (set_in(["files"], None), '"files" should be a list'),
    "file that leads out": (set_in(["tensors", 0, "file"], "../x.safetensors"), "the name of a file in the folder is expected"),
    "absolute file": (set_in(["tensors", 0, "file"], "/etc/passwd"), "the name of a file in the folder is expected"),
    "file in a folder": (set_in(["tensors", 0, "file"], "a/b.safetensors"), "the name of a file in the folder is expected"),
    "other file that leads out": (set_in(["files", 0, "name"], "a/../../x"), "the name of a file in the folder is expected"),
    "absolute other file": (set_in(["files", 0, "name"], "/etc/passwd"), "the name of a file in the folder is expected"),
    "null character": (set_in(["files", 0, "name"], "a\0b"), "the name of a file in the folder is expected"),
    "no name": (set_in(["files", 0, "name"], ""), "the name of a file in the folder is expected"),
    "short hash": (set_in(["tensors", 0, "sha256"], "ab"), "64 hexadecimal digits are expected"),
    "another hash": (set_in(["files", 0, "sha256"], "g" * 64), "64 hexadecimal digits are expected"),
    "dtype": (set_in(["tensors", 0, "dtype"], "F99"), 'unknown dtype "F99"'),
    "shape": (set_in(["tensors", 0, "shape"], [-1]), "its shape is none"),
    "fraction": (set_in(["tensors", 0, "shape"], [1.5]), "its shape is none"),
    "large shape": (set_in(["tensors", 0, "shape"], [2**40, 2**40]), "its shape is too large"),
    "many dimensions": (set_in(["tensors", 0, "shape"], [1] * 17), "its shape is none"),
    "number beyond 64 bits": (set_in(["tensors", 0, "shape"], [2**64]), "its shape is none"),
    "negative size": (set_in(["files", 0, "size"], -1), "should be a size in bytes"),
    "large size": (set_in(["files", 0, "size"], 2**63), "is too large"),
    "twice": (lambda content: content["tensors"].append(content["tensors"][0]), "two tensors named"),
    "file twice": (lambda content: content["files"].append(content["files"][0]), "two files named"),
    "parts": (lambda content: content["tensors"][0]["parts"].append(dict(content["tensors"][0]["parts"][0], bytes=1, written="0" * 64)),
              '"bytes" should be a size in bytes'),
    "parts that do not add up": (lambda content: content["tensors"][0].update(parts=[
        dict(content["tensors"][0]["parts"][0], bytes=2**62, written="0" * 64)] * 3), "its parts do not add up to its"),
}


@rows(HOSTILE)
def test_hostile_manifest(case, change, sentence):
    built(case)
    if isinstance(change, str):
        case.write(f"out/{MANIFEST}", change)
    else:
        edit_manifest(case, change)
    verify(case).exits(1).says(f"moerge: out/{MANIFEST}: ", sentence)


def test_manifest_of_a_later_format(case):
    built(case)
    edit_manifest(case, set_in(["moerge_manifest"], 2))
    verify(case).exits(2).says("of format 2; this moerge", "reads up to 1: take a newer one")


def test_manifest_that_is_too_large(case):
    built(case)
    os.truncate(case.path(f"out/{MANIFEST}"), 1 << 30)
    verify(case).exits(1).says(MANIFEST)


def test_many_members(case):
    """Of an object, names that nobody reads: no more work than reading them."""
    built(case)
    content = manifest(case)
    content["tensors"][0] |= {f"x{i}": i for i in range(300_000)}
    case.write(f"out/{MANIFEST}", json.dumps(content))
    is_right(case)


def test_names_do_not_drive_a_terminal(case):
    built(case)
    edit_manifest(case, lambda content: content["tensors"][0].update(name="a\x1b[2Jb"))
    assert "\x1b" not in is_wrong(case, "a\\x1b[2Jb").stdout


def test_json(case):
    built(case)
    result = json.loads(verify(case, "--json").exits(0).stdout)
    seconds = result.pop("seconds")
    assert seconds > 0 and result.pop("moerge_version")
    assert result == {"folder": "out", "right": True, "tensors": 29, "tensors_right": 29, "files": 1,
                      "bytes": sum(len(tensor.data) for tensor in read_checkpoint(case.path("out")).values()), "problems": [],
                      "notes": []}


def test_many_problems_are_cut_short(case):
    built(case)
    edit_manifest(case, lambda content: content["tensors"].extend(
        dict(content["tensors"][0], name=f"more {i}") for i in range(100)))
    result = is_wrong(case, "60 more (--json lists all)")
    assert result.stdout.count("wrong: ") == 41 and len(problems(case)) == 100
