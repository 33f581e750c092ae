"""What the tests of moerge verify share."""
import json


MANIFEST = "moerge_manifest.json"
SHARDS = ("--out-shard-size", "20k")
INDEX = "model.safetensors.index.json"
W1 = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
ROUTER = "model.layers.1.block_sparse_moe.gate.weight"


def built(case, *flags, **how):
    return case.built("--verify", *flags, **how)


def manifest(case, out="out"):
    return json.loads(case.path(f"{out}/{MANIFEST}").read_text())


def edit_manifest(case, change):
    content = manifest(case)
    change(content)
    case.write(f"out/{MANIFEST}", json.dumps(content))


def verify(case, *flags, out="out"):
    return case.run("verify", out, *flags)


def is_right(case, *flags, notes=(), out="out"):
    result = verify(case, *flags, out=out).exits(0).prints("right: all ", *notes)
    if (found := sum(line.startswith("note: ") for line in result.stdout.splitlines())) != len(notes):
        result.fail(f"{found} notes, expected {len(notes)}")
    return result


def is_wrong(case, *sentences, flags=(), out="out"):
    result = verify(case, *flags, out=out).exits(1)
    if "moerge: " in result.stderr:
        result.fail("a result, not an error, is expected")
    return result.prints("wrong: ", "NOT right", *sentences)


def problems(case, *flags):
    return json.loads(verify(case, "--json", *flags).exits(1).stdout)["problems"]


def place(case, name, out="out"):
    """File and place of a tensor's first byte, and how many there are."""
    for path in sorted(case.path(out).glob("*.safetensors")):
        content = path.read_bytes()
        data = 8 + int.from_bytes(content[:8], "little")
        if found := json.loads(content[8:data]).get(name):
            begin, end = found["data_offsets"]
            return path, data + begin, end - begin
    raise KeyError(name)


def overwrite(path, offset, content):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def flip(path, offset):
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 4]))


def edit_header(path, change):
    """Other words in a safetensors header of the same length."""
    content = path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:data])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(content[:8] + text.ljust(data - 8) + content[data:])
