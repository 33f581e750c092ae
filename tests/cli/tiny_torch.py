"""Files as torch.save writes them, made with nothing but Python's standard library: torch's functions are names here.

    torch_file(state_dict(model.tensors))                        # the bytes of a pytorch_model.bin
    torch_file({"w": rebuild(Storage("Float", "0", 6), 0, (2, 3), (3, 1))}, {"0": bytes(24)})   # one that can be wrong
"""
import collections, dataclasses, io, itertools, json, math, pickle, zipfile

STORAGES = {"F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long", "I8": "Char", "U8": "Byte",
            "BOOL": "Bool"}


@dataclasses.dataclass(frozen=True)
class Global:
    module: str
    name: str

    def __call__(self, *arguments):
        raise AssertionError("only a name")


class Call:
    """Pickled as function(*arguments)."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@dataclasses.dataclass(eq=False)
class Storage:
    """Pickled as the persistent id of ARCHIVE/data/KEY."""
    kind: str
    key: object
    elements: int
    tag: str = "storage"


class TorchPickler(pickle._Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return obj.tag, Global("torch", obj.kind + "Storage"), obj.key, "cpu", obj.elements
        return None

    def save(self, obj, *arguments, **options):
        if not isinstance(obj, Global):
            return super().save(obj, *arguments, **options)
        if self.proto < 4:
            return self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.save(obj.module)
        self.save(obj.name)
        self.write(pickle.STACK_GLOBAL)


def pickled(obj, protocol=2):
    out = io.BytesIO()
    TorchPickler(out, protocol).dump(obj)
    return out.getvalue()


def rebuild(storage, offset, size, stride):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, collections.OrderedDict())


def parameter(tensor):
    return Call(Global("torch._utils", "_rebuild_parameter"), tensor, True, collections.OrderedDict())


def strides(shape):
    return tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))


class StateDict:
    """An OrderedDict of tensors for the pickle and their storages; what is one Tensor object is one storage."""

    def __init__(self, tensors, wrap=lambda tensor: tensor):
        self.dict, self.storages = collections.OrderedDict(), {}
        known, keys = {}, itertools.count()
        for name, t in tensors.items():
            if id(t) not in known:
                key = str(next(keys))
                self.storages[key] = t.data
                known[id(t)] = Storage(STORAGES[t.dtype], key, math.prod(t.shape))
            self.dict[name] = wrap(rebuild(known[id(t)], 0, tuple(t.shape), strides(t.shape)))
        self.dict._metadata = collections.OrderedDict({"": {"version": 1}})


def archive(entries, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return out.getvalue()


def torch_file(obj, storages=None, protocol=2, byteorder="little", compression=zipfile.ZIP_STORED):
    """`obj`: a StateDict, opcodes, or anything that can be pickled."""
    if isinstance(obj, StateDict):
        obj, storages = obj.dict, obj.storages
    content = obj if isinstance(obj, bytes) else pickled(obj, protocol)
    entries = {"archive/data.pkl": content, "archive/byteorder": byteorder}
    entries |= {f"archive/data/{key}": data for key, data in (storages or {}).items()}
    return archive(entries | {"archive/version": "3\n"}, compression)


def pytorch_files(tensors, shards=1, protocol=2, wrap=lambda tensor: tensor):
    """File name -> bytes: pytorch_model.bin, or as many shards and their index. (safetensors are left out of the folder.)"""
    def one(names):
        return torch_file(StateDict({name: tensors[name] for name in names}, wrap), protocol=protocol)

    if shards == 1:
        return {"model.safetensors": None, "pytorch_model.bin": one(tensors)}
    names, files, index = list(tensors), {"model.safetensors": None}, {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        files[file] = one(names[i::shards])
        index |= {name: file for name in names[i::shards]}
    files["pytorch_model.bin.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    return files
