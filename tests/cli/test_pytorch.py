"""PyTorch's .bin files: the same weights as from safetensors, and pickles and archives that were made to do harm."""
import collections, json, os, pickle, struct, zipfile

from harness import rows
from tiny_models import random_tensor, tiny_model, tokenizer
from tiny_torch import (Call, Global, StateDict, Storage, archive, parameter, pickled, pytorch_files, rebuild, torch_file)

# ------------------------------------------------------------------------------------------------------------ same weights


def files_of(output):
    """Its files without the card, which names the folder."""
    return {name: content for name, content in output.content().items() if name != "README.md"}


def as_bin(case, name, model=None, **how):
    model = model or tiny_model(name)
    model.files |= pytorch_files(model.tensors, **how)
    case.model(name, model)


@rows({
    "one file": ({},),
    "shards": ({"shards": 3},),
    "parameters": ({"wrap": parameter},),
    "protocol 3": ({"protocol": 3},),
    "protocol 4": ({"protocol": 4},),
    "protocol 5 and shards": ({"protocol": 5, "shards": 2},),
})
def test_same_result_as_from_safetensors(case, how):
    case.yaml("hidden")
    expected = files_of(case.built(out="safetensors"))
    for name in ("base", "one"):
        for file in case.path(name).iterdir():
            file.unlink()
        as_bin(case, name, **how)
        assert not case.path(name + "/model.safetensors").exists()
    assert files_of(case.built(out="bin")) == expected


@rows({"F16": ("F16", "float16"), "F32": ("F32", "float32")})
def test_other_types(case, dtype, name):
    for model in ("base", "one", "two"):
        case.model(model, tiny_model(model, dtype, torch_dtype=name))
    expected = files_of(case.built(out="safetensors"))
    for model in ("base", "one", "two"):
        case.path(model + "/model.safetensors").unlink()
        as_bin(case, model, tiny_model(model, dtype, torch_dtype=name))
    assert files_of(case.built(out="bin")) == expected


def test_tied_embeddings_share_a_storage(case):
    """transformers saves both names of a tied tensor in .bin files, and its bytes once."""
    def tied(name):
        model = tiny_model(name, tie_word_embeddings=True)
        model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"]
        return model

    case.model("base", tied("base"))
    expected = files_of(case.built(out="safetensors"))
    case.path("base/model.safetensors").unlink()
    as_bin(case, "base", tied("base"))
    assert files_of(case.built(out="bin")) == expected


def test_gguf_of_a_bin_folder(case):
    def model():
        made = tiny_model("one")
        made.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()  # llama.cpp loads none without
        return made

    case.model("one", model())
    case.run("gguf", "one", "first", "--type", "bf16").exits(0)
    case.path("one/model.safetensors").unlink()
    as_bin(case, "one", model())
    case.run("gguf", "one", "second", "--type", "bf16").exits(0)
    files = {out: {file.name: file.read_bytes() for file in case.path(out).iterdir()} for out in ("first", "second")}
    assert files["first"] and files["first"] == files["second"]


def test_safetensors_come_first(case):
    base = tiny_model("base")
    base.files |= {"pytorch_model.bin": b"x", "pytorch_model.bin.index.json": b"x"}
    case.model("base", base)
    case.built()


def test_bin_comes_before_gguf(case):
    model = tiny_model("base")
    model.files |= pytorch_files(model.tensors) | {"base.gguf": b"x"}
    case.model("base", model)
    case.built()


def test_state_dict_in_a_dict(case):
    base = tiny_model("base")
    state = StateDict(base.tensors)
    content = torch_file({"epoch": 3, "state_dict": state.dict, "lr": 0.5}, state.storages)
    base.files |= {"model.safetensors": None, "pytorch_model.bin": content}
    case.model("base", base)
    case.built()


def test_missing_shard(case):
    as_bin(case, "base", shards=2)
    os.remove(case.path("base/pytorch_model-00002-of-00002.bin"))
    case.refused(1, f"{case.path('base')}: shard pytorch_model-00002-of-00002.bin is missing (an unfinished download?)")


@rows({repr(shard): (shard,) for shard in ("../one/pytorch_model.bin", "/etc/passwd", "..")})
def test_index_that_reaches_elsewhere(case, shard):
    as_bin(case, "base", shards=2)
    case.write("base/pytorch_model.bin.index.json", json.dumps({"weight_map": {"model.norm.weight": shard}}))
    case.refused(1, f'base/pytorch_model.bin.index.json: "{shard}" is no file name for a shard')


def test_index_names_the_wrong_shard(case):
    as_bin(case, "base", shards=2)
    file = "pytorch_model-00002-of-00002.bin"
    case.write("base/pytorch_model.bin.index.json", json.dumps({"weight_map": {"model.embed_tokens.weight": file}}))
    case.refused(1, f'{file} should hold "model.embed_tokens.weight" and does not')


# ---------------------------------------------------------------------------------------------------------- hostile pickles


def refused(case, content, code, *sentences):
    base = tiny_model("base")
    base.files |= {"model.safetensors": None, "pytorch_model.bin": content}
    case.model("base", base)
    case.refused(code, f"{case.path('base')}/pytorch_model.bin: {sentences[0]}", *sentences[1:])


DATA = {"0": bytes(24)}
FLOATS = Storage("Float", "0", 6)
TENSOR = rebuild(FLOATS, 0, (6,), (1,))


class Evil:
    """What an attacker writes: pickled as a call of a real function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@rows({
    "os.system as Python pickles it": (Evil(os.system, "touch ran"), f"{os.system.__module__}.system"),
    "os.system": (Call(Global("os", "system"), "touch ran"), "os.system"),
    "nt.system": (Call(Global("nt", "system"), "touch ran"), "nt.system"),
    "subprocess": (Call(Global("subprocess", "Popen"), ("touch", "ran")), "subprocess.Popen"),
    "builtins.eval": (Call(Global("builtins", "eval"), "open('ran', 'w')"), "builtins.eval"),
    "builtins.exec": (Call(Global("builtins", "exec"), "open('ran', 'w')"), "builtins.exec"),
    "Python 2's eval": (Call(Global("__builtin__", "eval"), "1"), "__builtin__.eval"),
    "getattr": (Call(Global("builtins", "getattr"), Global("torch", "Size"), "__class__"), "builtins.getattr"),
    "torch's own loader": (Call(Global("torch", "load"), "ran"), "torch.load"),
    "torch's compiler": (Call(Global("torch._inductor.codecache", "x"), "ran"), "torch._inductor.codecache.x"),
    "a path through torch": (Call(Global("torch.serialization", "os.system"), "touch ran"), "torch.serialization.os.system"),
    "runpy": (Call(Global("runpy", "_run_code"), "1", {}), "runpy._run_code"),
})
def test_nothing_is_run(case, evil, name):
    """Whatever its place: the whole, a value, an argument, a function; and in both spellings of a global."""
    whole = {"as the whole": evil, "as a value": {"w": TENSOR, "x": evil}, "nested": {"w": rebuild(evil, 0, (6,), (1,))},
             "in a list": {"w": [[evil]]}, "as a key": collections.OrderedDict({"_": {"a": (evil,)}})}
    for obj in whole.values():
        for protocol in (2, 4):
            refused(case, torch_file(obj, DATA, protocol), 1,
                    f"asks to run `{name}`, which a model's weights have no need of. Nothing of it was run")


def opcodes(body):
    return b"\x80\x02" + body + b"."


OPCODES = {
    "INST": (opcodes(b"(X\1\0\0\0xios\nsystem\n"), 2, "its pickle uses the opcode INST"),
    "OBJ": (opcodes(b"(o"), 2, "its pickle uses the opcode OBJ"),
    "NEWOBJ": (opcodes(b"ctorch\nSize\n)\x81"), 2, "its pickle uses the opcode NEWOBJ"),
    "EXT1": (opcodes(b"\x82\1"), 2, "its pickle uses the opcode EXT1"),
    "PERSID": (opcodes(b"P../../x\n"), 2, "its pickle uses the opcode PERSID"),
    "protocol 0": (b"cos\nsystem\n(S'touch ran'\ntR.", 2, "its pickle is of protocol 0 or 1"),
    "protocol 6": (b"\x80\6N.", 2, "its pickle is of protocol 6"),
    "unknown": (opcodes(b"\xff"), 1, "damaged: its pickle cannot be read at byte 2: opcode 0xff does not exist"),
    "empty": (b"", 2, "its pickle is of protocol 0 or 1"),
    "cut off": (pickled({"w": TENSOR})[:-1], 1, "damaged: its pickle cannot be read"),
    "call of a call": (opcodes(b"ctorch\nSize\n)R)R"), 1, "damaged: its pickle", "it calls something that is no function"),
    "call of a text": (opcodes(b"X\x09\0\0\0os.system)R"), 1, "damaged: its pickle", "it calls something that is no function"),
    "BUILD of a call": (opcodes(b"ctorch\nSize\n)R}b"), 1, "damaged: its pickle",
                        "it changes the inside of something that is no dict"),
    "a name that is no text": (opcodes(b"K\1K\1\x93"), 1, "damaged: its pickle", "the name of a global is no text"),
    "a text of 4 GB": (opcodes(b"X\xff\xff\xff\xff"), 1, "damaged: its pickle", "it is cut off"),
    "a text of 2^63": (opcodes(b"\x8d" + b"\xff" * 8), 1, "damaged: its pickle", "it is cut off"),
    "a frame of 2^63": (opcodes(b"\x95" + b"\xff" * 8), 1, "damaged: its pickle", "it is cut off"),
    "memo of 4 billion": (opcodes(b"Nr\xff\xff\xff\xff"), 1, "damaged: its pickle", "remembers more values"),
    "a dict that holds itself": (opcodes(b"}q\1(X\2\0\0\0meh\1u"), 2, "a dict of other things (me)"),
    "a state_dict that holds itself": (opcodes(b"}q\1(X\x0a\0\0\0state_dicth\1u"), 2, '"state_dict" is neither a tensor'),
    "a list that holds itself": (opcodes(b"]q\1h\1a"), 2, "holds no dict"),
    "a million levels of tuples": (opcodes(b"}(X\1\0\0\0w" + b")" + b"\x85" * 1_000_000 + b"u"), 2,
                                   '"w" is neither a tensor nor a plain value'),
    "a million levels of lists": (opcodes(b"}(X\1\0\0\0w" + b"]" * 1_000_000 + b"a" * 999_999 + b"u"), 2,
                                  '"w" is neither a tensor nor a plain value'),
    "a billion laughs": (opcodes(b"](NNNNNNNNNNe" + b"".join(b"q%c0](" % i + b"h%c" % i * 10 + b"e" for i in range(100))), 2,
                         "holds no dict"),
    "too many values": (opcodes(b"(" + b"N" * 2_000_001 + b"t"), 1, "its pickle holds more than 2000000 values"),
    "too large": (b"\x80\x02" + bytes(32 << 20), 1, "its pickle has 33554434 bytes, at most 33554432 are read"),
}


@rows(OPCODES)
def test_hostile_opcodes(case, content, code, *sentences):
    refused(case, torch_file(content, DATA), code, *sentences)


def storage(key="0", elements=6, kind="Float", tag="storage"):
    return {"w": rebuild(Storage(kind, key, elements, tag), 0, (1,), (1,))}


def view(offset=0, size=(6,), stride=(1,)):
    return {"w": rebuild(FLOATS, offset, size, stride)}


TENSORS = {
    # storages
    "a path": (storage("../../x"), 1, 'damaged: "w": its storage "../../x" is not in the archive'),
    "another entry": (storage("../data.pkl"), 1, 'damaged: "w": its storage "../data.pkl" is not in the archive'),
    "an absolute path": (storage("/etc/passwd"), 1, 'damaged: "w": its storage "/etc/passwd" is not in the archive'),
    "a number for a key": (storage(0), 1, 'damaged: "w": its storage is not described as torch does'),
    "another persistent id": (storage(tag="module"), 1, 'damaged: "w": its storage is not described as torch does'),
    "storage too large": (storage(elements=7), 1, 'damaged: "w": its storage should have 7 elements of float32 and has 24 bytes'),
    "storage of 2^62": (storage(elements=2**62), 1, f'damaged: "w": its storage should have {2**62} elements'),
    "negative storage": (storage(elements=-1), 1, 'damaged: "w": its storage should have -1 elements'),
    "elements no number": (storage(elements="6"), 1, 'damaged: "w": its storage\'s size is no integer'),
    "unknown storage": (storage(kind="Evil"), 1, "asks to run `torch.EvilStorage`"),
    "complex": (storage(kind="ComplexFloat", elements=3), 2,
                '"w" is of type torch.ComplexFloatStorage, which this program does not know'),
    # sizes and places
    "offset beyond the storage": (view(offset=6, size=(1,)), 1,
                                  'damaged: "w": 4 bytes from element 6 on do not lie in its storage of 24 bytes'),
    "last element beyond it": (view(offset=1), 1, 'damaged: "w": 24 bytes from element 1 on do not lie'),
    "offset of 2^62": (view(offset=2**62), 1, f'damaged: "w": 24 bytes from element {2**62} on do not lie'),
    "offset beyond 64 bits": (view(offset=2**64), 1, "damaged: its pickle", "an integer has more than 64 bits"),
    "negative offset": (view(offset=-1), 1, 'damaged: "w": 24 bytes from element -1 on do not lie'),
    "a huge size": (view(size=(2**62,)), 1, f'damaged: "w": a tensor of shape [{2**62}] is larger than any file'),
    "sizes whose product overflows": (view(size=(2**32, 2**32), stride=(2**32, 1)), 1,
                                      'damaged: "w": a tensor of shape [4294967296, 4294967296] is larger'),
    "a large size": (view(size=(2**40,)), 1, 'damaged: "w": 4398046511104 bytes from element 0 on do not lie'),
    "negative size": (view(size=(-6,)), 1, 'damaged: "w": a tensor of shape [-6] is larger than any file'),
    "negative stride": (view(stride=(-1,)), 1, 'damaged: "w": a negative stride'),
    "stride too short": (view(size=(2, 3), stride=(1,)), 1, 'damaged: "w": 2 sizes and 1 strides'),
    "17 dimensions": (view(size=(1,) * 17, stride=(1,) * 17), 1, 'damaged: "w": more than 16 dimensions'),
    "size no tuple": (view(size=6), 1, 'damaged: "w": its size is no tuple of integers'),
    "transposed": (view(size=(3, 2), stride=(1, 3)), 2,
                   '"w" of shape [3, 2] is a view with strides [1, 3] (transposed, say): save its .contiguous()'),
    "expanded": (view(size=(2, 6), stride=(0, 1)), 2, '"w" of shape [2, 6] is a view with strides [0, 1]'),
    # what is no tensor
    "rebuild of nothing": ({"w": Call(Global("torch._utils", "_rebuild_tensor_v2"))}, 1,
                           'damaged: "w": torch._utils._rebuild_tensor_v2 takes 6 to 7 arguments, 0 are given'),
    "rebuild of a rebuild": ({"w": rebuild(TENSOR, 0, (6,), (1,))}, 1, 'damaged: "w": its storage is no place in the archive'),
    "parameter of a parameter": ({"w": parameter(parameter(TENSOR))}, 1, 'damaged: "w": it is not made as torch makes tensors'),
    "a type for a function": ({"w": Call(Global("torch", "FloatStorage"))}, 1,
                              'damaged: "w": it is not made as torch makes tensors'),
    "a list of tensors": ({"w": TENSOR, "list": [TENSOR]}, 2, '"list" is neither a tensor nor a plain value'),
    "training": ({"model": {"w": TENSOR}, "optimizer": {"lr": 0.1}}, 2,
                 "a dict of other things (model, optimizer), perhaps a checkpoint of a training: a file of weights is a dict of "
                 "tensors, as torch.save(model.state_dict(), FILE) writes it"),
    "a tensor": (TENSOR, 2, "holds no dict: a file of weights is a dict of tensors"),
    "numbers for names": ({1: TENSOR}, 1, "a key of its dict is no text"),
}


@rows(TENSORS)
def test_hostile_tensor(case, obj, code, *sentences):
    refused(case, torch_file(obj, DATA), code, *sentences)


# --------------------------------------------------------------------------------------------------------- hostile archives


def changed(content, mark, at, change):
    start = content.rfind(mark) + at
    return content[:start] + change + content[start + len(change):]


GOOD = torch_file({"w": TENSOR}, DATA)
END, ENTRY = b"PK\5\6", b"PK\1\2"
ARCHIVES = {
    "compressed": (torch_file({"w": TENSOR}, DATA, compression=zipfile.ZIP_DEFLATED), 2,
                   '"archive/data.pkl" is compressed (method 8), which torch.save does not do'),
    "big-endian": (torch_file({"w": TENSOR}, DATA, byteorder="big"), 2, 'its byte order is "big"'),
    "TorchScript": (archive({"m/data.pkl": b"", "m/code/__torch__.py": b"", "m/constants.pkl": b""}), 2,
                    'a TorchScript program ("m/code/__torch__.py"), not weights'),
    "no pickle": (archive({"archive/data/0": b""}), 1, "a zip archive without data.pkl"),
    "two pickles": (archive({"a/data.pkl": b"", "b/data.pkl": b""}), 1, "damaged: two entries are called data.pkl"),
    "before torch 1.6": (pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2), 2,
                         "written by torch.save before version 1.6"),
    "a pickle alone": (pickled({"w": TENSOR}), 1, f"{len(pickled({'w': TENSOR}))} bytes that are no zip archive, which torch.save writes"),
    "nothing": (b"", 1, "0 bytes that are no zip archive"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", 1, "a Git LFS pointer"),
    "half": (GOOD[:len(GOOD) // 2], 1, "truncated: a zip archive without its end"),
    "without its last byte": (GOOD[:-1], 1, "truncated: a zip archive without its end"),
    "65535 entries": (changed(GOOD, END, 8, b"\xff\xff\xff\xff"), 1, "damaged: 65535 entries in a directory of"),
    "a directory of 4 GB": (changed(GOOD, END, 12, b"\xff\xff\xff\xff"), 1, "truncated or damaged: a directory of"),
    "a directory elsewhere": (changed(GOOD, END, 16, struct.pack("<I", 5)), 1, "truncated or damaged: its directory does not end"),
    "an entry of 2 GB": (changed(GOOD, ENTRY, 20, struct.pack("<II", 2**31, 2**31)), 1, "truncated or damaged: an entry of"),
    "an entry of 2 GB unpacked": (changed(GOOD, ENTRY, 24, struct.pack("<I", 2**31)), 1,
                                  'damaged: "archive/version" is stored and has 2 bytes, 2147483648 unpacked'),
    "encrypted": (changed(GOOD, ENTRY, 8, b"\1"), 2, '"archive/version" is encrypted'),
    "an entry over another": (changed(GOOD, ENTRY, 42, struct.pack("<I", 0)), 1, 'damaged: "archive/'),
}


@rows(ARCHIVES)
def test_hostile_archive(case, content, code, *sentences):
    refused(case, content, code, *sentences)


def test_every_entry_is_there_once(case):
    twice = archive({"a/data.pkl": b"1", "b/data.pkl": b"2"}).replace(b"b/data.pkl", b"a/data.pkl")
    refused(case, twice, 1, 'damaged: two entries named "a/data.pkl"')


def test_truncated_file(case):
    model = tiny_model("base")
    content = pytorch_files(model.tensors)["pytorch_model.bin"]
    for size in (10, 1000, len(content) // 2, len(content) - 1000, len(content) - 22, len(content) - 1):
        refused(case, content[:size], 1, "truncated: a zip archive without its end")


def test_expert_s_missing_tensor(case):
    one = tiny_model("one")
    del one.tensors["model.layers.1.mlp.up_proj.weight"]
    one.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = random_tensor("inv_freq", [4], "F32")
    as_bin(case, "one", one)
    case.refused(1, f"{case.path('one')}: tensor \"model.layers.1.mlp.up_proj.weight\" [48, 32] is missing")
