"""moerge verify: a build with --verify keeps checksums beside the model, and what is no longer as it was built is found."""
import hashlib, json, os, shutil

from harness import rows
from push_case import REPO, hub_for
from test_adapters import write as write_adapter, yaml as adapter_yaml
from test_extract import extract
from tiny_mixtures import mixture_gguf, tiny_mixture
from tiny_models import read_checkpoint, safetensors_files, read_safetensors
from verify_case import (INDEX, MANIFEST, ROUTER, SHARDS, W1, built, edit_header, edit_manifest, flip, is_right, is_wrong,
                         manifest, overwrite, place, problems, verify)


# ------------------------------------------------------------------------------------------------------- the manifest


@rows({"one file": ([],), "shards": (SHARDS,)})
def test_manifest_holds_every_tensor_and_file(case, flags):
    out = built(case, *flags)
    content, tensors = manifest(case), out.tensors
    assert content["moerge_manifest"] == 1 and content["moerge_version"]
    assert {row["name"] for row in content["tensors"]} == tensors.keys()
    sources = {name: read_checkpoint(case.path(name)) for name in ("base", "one", "two")}
    for row in content["tensors"]:
        found = tensors[row["name"]]
        assert (row["dtype"], row["shape"]) == (found.dtype, found.shape)
        assert row["sha256"] == hashlib.sha256(found.data).hexdigest()
        assert row["name"] in read_safetensors(case.path("out") / row["file"])
        if row["name"].endswith("block_sparse_moe.gate.weight"):
            assert row["computed"] == "router, gate_mode random" and "parts" not in row
            continue
        [part] = row["parts"]
        assert part["change"] == "copied" and part["sha256"] == row["sha256"]
        assert part["sha256"] == hashlib.sha256(sources[part["model"]][part["tensor"]].data).hexdigest()
    weights = {row["file"] for row in content["tensors"]}
    assert {row["name"] for row in content["files"]} == set(out.files()) - weights - {MANIFEST}
    for row in content["files"]:
        assert (row["size"], row["sha256"]) == (len(out.read(row["name"])), hashlib.sha256(out.read(row["name"])).hexdigest())
    assert str(case.folder) not in case.path(f"out/{MANIFEST}").read_text(), "a path of this disk"
    is_right(case, "--sources")


def test_without_verify_there_is_none(case):
    assert MANIFEST not in case.built().files()


def test_every_number_of_threads_writes_the_same(case):
    first = built(case, "-j", 1, out="j1").read(MANIFEST)
    second = built(case, "-j", 7, out="j7").read(MANIFEST)
    drop = lambda text: [row for row in json.loads(text)["files"] if row["name"] != "README.md"]  # has the folder's name
    assert drop(first) == drop(second) and json.loads(first)["tensors"] == json.loads(second)["tensors"]


def test_what_was_changed_on_the_way(case):
    case.yaml(text="base_model: base\ngate_mode: random\ndtype: float32\nexperts:\n"
                   "  - {source_model: one, noise_scale: 0.1}\n  - {source_model: two, residual_scale: 0.5}\n")
    built(case)
    parts = {row["name"]: row["parts"][0] for row in manifest(case)["tensors"] if "parts" in row}
    assert parts["model.norm.weight"]["change"] == {"dtype": "bfloat16"}
    assert parts[W1.format(0)]["change"] == {"dtype": "bfloat16", "noise": 0.1}
    assert parts[W1.format(1).replace("w1", "w2")]["change"] == {"dtype": "bfloat16", "scale": 0.5}
    one = read_checkpoint(case.path("one"))
    assert parts[W1.format(0)]["sha256"] == hashlib.sha256(one[parts[W1.format(0)]["tensor"]].data).hexdigest()
    is_right(case, "--sources")


def test_adapters_and_mixtures_name_no_path_of_this_disk(case):
    """A router that keeps old rows and a LoRA adapter are described by where they lie."""
    for name in ("base", "one"):
        write_adapter(case, name)
    case.model("two")
    built(case, config=adapter_yaml(case, "base+adapters/base", "one+adapters/one", "two"))
    text = case.path(f"out/{MANIFEST}").read_text()
    assert str(case.folder) not in text, text[:3000]
    part = next(row["parts"][0] for row in manifest(case)["tensors"] if row["name"] == W1.format(0))
    assert part["model"] == "one+adapters/one" and part["change"] == {"derivation": " + LoRA one"}
    is_right(case, "--sources")
    adapter = case.path("adapters/one/adapter_model.safetensors")
    flip(adapter, adapter.stat().st_size - 1)
    is_wrong(case, 'model "one+adapters/one": "model.layers.1.mlp.down_proj.weight": differs from what the build read',
             flags=["--sources"])
    is_right(case)


def test_grown_mixture(case):
    case.model("base", tiny_mixture("base", "mixtral"))
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n  - source_model: base#expert=1\n", file="grow.yaml")
    built(case, config="grow.yaml")
    assert str(case.folder) not in case.path(f"out/{MANIFEST}").read_text()
    routers = [row["computed"] for row in manifest(case)["tensors"] if "computed" in row]
    assert routers and all(text.startswith("base: ") for text in routers), routers
    is_right(case, "--sources")


@rows({"folder": ("mix",), "GGUF": ("mix.gguf",)})
def test_extract(case, source):
    model = tiny_mixture("mix", "mixtral")
    case.model("mix", model)
    mixture_gguf(model).write(case.path("mix.gguf"))
    extract(case, source, "--expert", "1", "--verify")
    assert {part["model"] for row in manifest(case)["tensors"] for part in row["parts"]} == {source + "#expert=1"}
    is_right(case, "--sources")
    shutil.rmtree(case.path("mix"))
    os.remove(case.path("mix.gguf"))
    is_right(case)
    is_right(case, "--sources", notes=[f'model "{source}#expert=1" is not here: not compared'])


# ------------------------------------------------------------------------------------------------------------- damage


@rows({"shards": (SHARDS,), "one file": ([],), "fused": (["--layout", "fused"],)})
def test_nothing_is_needed_but_the_folder(case, flags):
    built(case, *flags)
    for name in ("base", "one", "two", "moe.yaml"):
        shutil.rmtree(case.path(name), ignore_errors=True)
    os.rename(case.path("out"), case.path("moved"))
    result = is_right(case, out="moved")
    result.says("checked: ")
    assert verify(case, "--quiet", out="moved").exits(0).stdout == ""


@rows({"first byte": (0,), "last byte": (-1,)})
def test_flipped_bit_in_every_tensor(case, at):
    tensors = built(case, *SHARDS).tensors
    for name in tensors:
        path, offset, size = place(case, name)
        before = path.read_bytes()
        flip(path, offset + at % size)
        [found] = problems(case)
        path.write_bytes(before)
        assert found["kind"] == "bytes" and found["tensors"] == [name] and found["file"] == path.name, found
        assert f"bytes {offset} to {offset + size} of the file" in found["text"]
    is_right(case)


def test_flipped_bit_in_a_stack(case):
    built(case, "--layout", "fused")
    path, offset, size = place(case, "model.layers.0.mlp.experts.gate_up_proj")
    part = size // 4
    flip(path, offset + 2 * part + 5)
    is_wrong(case, f"part 3 of 4 (two: model.layers.0.mlp.gate_proj.weight), bytes {offset + 2 * part} to {offset + 3 * part} "
                   "of the file, differs")


def test_flipped_bit_anywhere_in_a_header(case):
    """Only the spaces at its end say nothing."""
    built(case, *SHARDS)
    path = place(case, "lm_head.weight")[0]
    before = path.read_bytes()
    header = before[8:8 + int.from_bytes(before[:8], "little")]
    for at in range(8 + len(header.rstrip())):
        flip(path, at)
        is_wrong(case)
        path.write_bytes(before)
    is_right(case)


@rows({"shards": (SHARDS,), "one file": ([],)})
def test_cut_file(case, flags):
    built(case, *flags)
    path, offset, size = place(case, "model.layers.1.self_attn.q_proj.weight")
    os.truncate(path, path.stat().st_size - 1)
    lost = {row["name"] for row in manifest(case)["tensors"] if row["file"] == path.name}
    [found] = problems(case)
    assert found["kind"] == "damaged_file" and found["file"] == path.name and set(found["tensors"]) == lost
    is_wrong(case, f"{path.name}: truncated: ", f"{len(lost)} tensor", " lost with it: ",
             f"{len(manifest(case)['tensors']) - len(lost)} of {len(manifest(case)['tensors'])} tensors are as they were built")
    os.truncate(path, 0)
    is_wrong(case, "0 bytes are no safetensors file")


def test_longer_file(case):
    built(case)
    path = case.path("out/model.safetensors")
    path.write_bytes(path.read_bytes() + b"x")
    is_wrong(case, "1 bytes after the last tensor")


@rows({"shards": (SHARDS,), "one file": ([],)})
def test_missing_file(case, flags):
    built(case, *flags)
    path, _, _ = place(case, ROUTER)
    path.unlink()
    [found] = problems(case)
    assert found["kind"] == "missing_file" and ROUTER in found["tensors"]
    is_wrong(case, f"{path.name} is missing: ", "lost with it: ")


@rows({"Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
       "nothing that is known": (b"\xff" * 99, "no safetensors file, or damaged")})
def test_another_file(case, content, sentence):
    built(case)
    case.write("out/model.safetensors", content)
    is_wrong(case, sentence)


def test_folder_in_place_of_a_file(case):
    built(case)
    case.path("out/model.safetensors").unlink()
    case.path("out/model.safetensors").mkdir()
    is_wrong(case, "no regular file")


def test_pipe_in_place_of_a_file(case):
    built(case)
    for name in ("model.safetensors", "config.json"):
        case.path(f"out/{name}").unlink()
        os.mkfifo(case.path(f"out/{name}"))
    assert {found["file"] for found in problems(case)} == {"model.safetensors", "config.json"}


def swap(case, one, two):
    (first, a, size), (second, b, other) = place(case, one), place(case, two)
    assert size == other
    x, y = first.read_bytes()[a:a + size], second.read_bytes()[b:b + size]
    overwrite(first, a, y)
    overwrite(second, b, x)


@rows({"shards": (SHARDS,), "one file": ([],)})
def test_swapped_experts(case, flags):
    built(case, *flags)
    swap(case, W1.format(0), W1.format(1))
    is_wrong(case, f'"{W1.format(0)}" holds what belongs to "{W1.format(1)}" (two: model.layers.0.mlp.gate_proj.weight)',
             f'"{W1.format(1)}" holds what belongs to "{W1.format(0)}" (one: model.layers.0.mlp.gate_proj.weight)')


def test_swapped_experts_of_a_stack(case):
    built(case, "--layout", "fused")
    path, offset, size = place(case, "model.layers.1.mlp.experts.down_proj")
    content = path.read_bytes()[offset:offset + size]
    overwrite(path, offset, content[size // 2:] + content[:size // 2])
    is_wrong(case, "part 1 of 2 (one: model.layers.1.mlp.down_proj.weight)",
             'holds what belongs to part 2 of "model.layers.1.mlp.experts.down_proj" (two: model.layers.1.mlp.down_proj.weight)')


def test_source_in_place_of_what_was_made_of_it(case):
    """Noise that is not there: the tensor is the expert's own."""
    case.yaml(text="base_model: base\ngate_mode: random\nexperts:\n"
                   "  - {source_model: one, noise_scale: 0.1}\n  - {source_model: two}\n")
    built(case)
    path, offset, _ = place(case, W1.format(0))
    overwrite(path, offset, read_checkpoint(case.path("one"))["model.layers.0.mlp.gate_proj.weight"].data)
    is_wrong(case, f'"{W1.format(0)}" holds the bytes of one: model.layers.0.mlp.gate_proj.weight')


def test_swapped_shards(case):
    built(case, *SHARDS)
    first, second = sorted(case.path("out").glob("*.safetensors"))[:2]
    os.rename(first, case.path("x"))
    os.rename(second, first)
    os.rename(case.path("x"), second)
    found = problems(case)
    assert {row["kind"] for row in found} == {"index"} and len(found) == 2, found
    is_wrong(case, f"{INDEX} points elsewhere: ", f"should be in {first.name} and", "all 29 tensors are as they were built")


# ------------------------------------------------------------------------------------------------- headers and index


def rename(header):
    header["model.nonsense.weight"] = header.pop("model.norm.weight")


def retype(header):
    header["model.norm.weight"]["dtype"] = "F16"


def reshape(header):
    header[W1.format(0)]["shape"].reverse()


@rows({
    "renamed": (rename, ["missing_tensor", "unknown_tensor"],
                '"model.nonsense.weight" is not part of the build; it holds what belongs to "model.'),
    "another type": (retype, ["header"], '"model.norm.weight" is float16 [32], and bfloat16 [32] was written; its bytes are the same'),
    "another shape": (reshape, ["header"], "is bfloat16 [32, 48], and bfloat16 [48, 32] was written"),
})
def test_changed_header(case, change, kinds, sentence):
    built(case)
    edit_header(case.path("out/model.safetensors"), change)
    assert [row["kind"] for row in problems(case)] == kinds
    is_wrong(case, sentence)


def edit_index(case, change):
    index = json.loads(case.path(f"out/{INDEX}").read_text())
    change(index["weight_map"])
    case.write(f"out/{INDEX}", json.dumps(index))


@rows({
    "another shard": (lambda weights: weights.update({ROUTER: weights["model.embed_tokens.weight"]}), "points elsewhere: 1 tensor"),
    "a file that is not there": (lambda weights: weights.update({ROUTER: "elsewhere.safetensors"}), "elsewhere.safetensors is missing"),
    "a tensor less": (lambda weights: weights.pop(ROUTER), f'{INDEX} lacks 1 tensor: "{ROUTER}"'),
    "a tensor more": (lambda weights: weights.update({"more": weights[ROUTER]}), 'names 1 tensor that no file holds: "more"'),
    "out of the folder": (lambda weights: weights.update({ROUTER: "../x.safetensors"}), "is no file name for a shard"),
    "all elsewhere": (lambda weights: weights.update({name: "x.safetensors" for name in weights}), "x.safetensors is missing"),
    "a file of another kind": (lambda weights: weights.update({ROUTER: "config.json"}), "should end in .safetensors"),
})
def test_index(case, change, sentence):
    built(case, *SHARDS)
    edit_index(case, change)
    is_wrong(case, sentence, "all 29 tensors are as they were built")


@rows({"missing": (None, "without it no program finds the shards"), "no JSON": ("{", "not valid JSON"),
       "empty": ("{}", 'no "weight_map" in it')})
def test_damaged_index(case, text, sentence):
    built(case, *SHARDS)
    case.path(f"out/{INDEX}").unlink()
    if text:
        case.write(f"out/{INDEX}", text)
    is_wrong(case, sentence, "all 29 tensors are as they were built")


def test_single_file_beside_the_shards(case):
    built(case, *SHARDS)
    shutil.copy(case.path("one/model.safetensors"), case.path("out"))
    is_wrong(case, "transformers loads it instead of the shards")


def reshard(case, files):
    for path in [*case.path("out").glob("*.safetensors"), *case.path("out").glob(INDEX)]:
        path.unlink()
    for name, content in files.items():
        case.write(f"out/{name}", content)


@rows({"into one": (SHARDS, 1), "into three": ([], 3), "from many to three": (SHARDS, 3)})
def test_other_files_with_the_same_tensors(case, flags, shards):
    out = built(case, *flags)
    reshard(case, safetensors_files(out.tensors, shards))
    is_right(case, notes=["in other files than they were written to, and their bytes are right"])


def test_other_files_with_a_changed_tensor(case):
    tensors = built(case).tensors
    tensors[ROUTER].data = bytes(len(tensors[ROUTER].data))
    reshard(case, safetensors_files(tensors, 3))
    is_wrong(case, f'"{ROUTER}" differs from what was written')


# ----------------------------------------------------------------------------------------------------- the other files


@rows({
    "edited card": ("README.md", "# mine\n", "README.md was changed after the build"),
    "empty card": ("README.md", "", "README.md is empty"),
    "no card": ("README.md", None, "README.md is missing"),
    "no YAML": ("mergekit_moe_config.yml", None, "mergekit_moe_config.yml is missing"),
    "edited config.json": ("config.json", '{"model_type": "mixtral"}', "config.json was changed after the build"),
    "edited tokenizer": ("tokenizer.json", "{}", "tokenizer.json was changed after the build"),
})
def test_what_people_change_is_a_note(case, name, content, sentence):
    built(case)
    case.path(f"out/{name}").unlink()
    if content is not None:
        case.write(f"out/{name}", content)
    is_right(case, notes=[sentence])
    assert json.loads(verify(case, "--json").exits(0).stdout)["notes"][0]["file"] == name
    assert verify(case, "--quiet").exits(0).stdout == ""


@rows({
    "no config.json": ("config.json", None, "config.json is missing"),
    "no tokenizer": ("tokenizer.json", None, "tokenizer.json is missing"),
    "cut config.json": ("config.json", '{"model_type": "mix', "not valid JSON"),
    "empty tokenizer": ("tokenizer.json", "", "tokenizer.json is empty, and was not"),
})
def test_what_a_model_needs(case, name, content, sentence):
    built(case)
    case.path(f"out/{name}").unlink()
    if content is not None:
        case.write(f"out/{name}", content)
    is_wrong(case, sentence, "all 29 tensors are as they were built")


def test_sentencepiece_model_is_no_text(case):
    case.fill_in()
    case.write("base/tokenizer.model", b"\x0a\x05pieces")
    built(case)
    case.write("out/tokenizer.model", b"\x0a\x05piecez")
    is_wrong(case, "tokenizer.model was changed after the build", "no text that people edit")


def test_chat_templates_in_their_folder(case):
    case.fill_in()
    case.write("base/additional_chat_templates/rag.jinja", "x")
    built(case)
    assert "additional_chat_templates/rag.jinja" in {row["name"] for row in manifest(case)["files"]}
    case.write("out/additional_chat_templates/rag.jinja", "y")
    is_right(case, notes=["additional_chat_templates/rag.jinja was changed"])


def test_further_files_are_nobodys_business(case):
    built(case)
    case.write("out/notes.txt", "mine")
    case.write("out/sub/model.gguf", "mine")
    is_right(case)


def test_card_command_makes_a_note(case):
    built(case)
    case.run("card", "out", "--license", "mit").exits(0)
    is_right(case, notes=["README.md was changed"])


# ------------------------------------------------------------------------------------------------------------- sources


def test_sources(case):
    built(case)
    is_right(case, "--sources")
    path, offset, _ = place(case, "model.layers.0.mlp.up_proj.weight", "two")
    flip(path, offset)
    is_right(case)
    is_wrong(case, 'model "two": "model.layers.0.mlp.up_proj.weight": differs from what the build read', flags=["--sources"])


def test_sources_are_found_beside_the_result(case):
    built(case)
    result = case.run("verify", case.path("out"), "--sources", cwd=case.folder).exits(0)
    assert "not here" not in result.stdout and "sources: " in result.stderr


def test_sources_that_are_gone_or_broken(case):
    built(case)
    shutil.rmtree(case.path("one"))
    is_right(case, "--sources", notes=['model "one" is not here: not compared'])
    os.truncate(case.path("two/model.safetensors"), 1000)
    is_wrong(case, 'model "two": ', flags=["--sources"])


def test_source_without_a_tensor(case):
    built(case)
    edit_manifest(case, lambda content: content["tensors"][0]["parts"][0].update(tensor="nosuch"))
    is_wrong(case, 'model "base" has no "nosuch" any more', flags=["--sources"])


# -------------------------------------------------------------------------------------------------------------- the Hub


def test_push_takes_the_manifest_along_and_a_pulled_folder_is_right(case):
    with hub_for(case) as hub:
        out = built(case, *SHARDS)
        case.run("push", "out", REPO).exits(0)
        assert hub.files(REPO)[MANIFEST] == out.read(MANIFEST)
        case.run("pull", REPO, "--local-dir", "copy").exits(0)
        is_right(case, out="copy")
        case.run("pull", REPO).exits(0)
        is_right(case, out=REPO)
        flip(*place(case, ROUTER, "copy")[:2])
        is_wrong(case, ROUTER, out="copy")
