"""Reads a GGUF file with Python's standard library: keys with their types, tensors with the bytes they have.

The format is that of ggml's docs/gguf.md, version 3, little-endian. Everything that a sound file has to fulfil is
checked; what is not so raises BadFile.
"""
import hashlib, struct

VALUE_TYPES = ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "ARRAY", "UINT64",
               "INT64",
               "FLOAT64"]
LETTERS = {"UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "UINT32": "I", "INT32": "i", "FLOAT32": "f",
           "BOOL": "?",
           "UINT64": "Q", "INT64": "q", "FLOAT64": "d"}
# Number in the file: (name, values in a block, bytes of a block).
TENSOR_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
                7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
                12: ("Q4_K", 256, 144),
                13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 30: ("BF16", 1, 2)}


class BadFile(Exception):
    pass


class Value:
    """`type`: a name of VALUE_TYPES, for an array "ARRAY " and that of its elements. `raw`: the value as it lies in the
    file, without its type, a string's length, or an array's type and length."""

    def __init__(self, type_name, value, raw):
        self.type, self.value, self.raw = type_name, value, raw

    def canonical(self):
        """What is compared: floats by their bits, long values by their hash (see summary())."""
        return [self.type, summary(self)]


# Values whose JSON would be longer than this are kept as a count and hashes.
LONGEST = 200
BLOCKS = 64


def plain(value, raw, type_name):
    """A value as JSON. Floats carry their bits, for JSON has no other way to be exact about them."""
    if type_name in ("FLOAT32", "FLOAT64"):
        return f"{value!r} 0x{raw[::-1].hex()}"
    return value


def summary(v):
    if not v.type.startswith("ARRAY"):
        if v.type == "STRING" and len(v.raw) > LONGEST:
            return {"bytes": len(v.raw), "sha256": hashlib.sha256(v.raw).hexdigest()}
        return plain(v.value, v.raw, v.type)
    element = v.type.removeprefix("ARRAY ")
    pieces = list(element_bytes(v))
    if len(v.raw) <= LONGEST:
        return [plain(x, p, element) for x, p in zip(v.value, pieces)]
    step = block_length(len(pieces))
    blocks = [hashlib.sha256(b"".join(pieces[i:i + step])).hexdigest()[:4] for i in range(0, len(pieces), step)]
    return {"count": len(pieces), "sha256": hashlib.sha256(v.raw).hexdigest(), "blocks": " ".join(blocks)}


def block_length(count):
    """How many elements each hash of `blocks` is over: they say where in a long array a difference lies."""
    return max(8, -(-count // BLOCKS))


def element_bytes(v):
    """The bytes of each element of an array, a string's with its length."""
    element = v.type.removeprefix("ARRAY ")
    if element == "STRING":
        for x in v.value:
            data = x.encode("utf-8", "surrogateescape")
            yield struct.pack("<Q", len(data)) + data
    else:
        size = struct.calcsize("<" + LETTERS[element])
        for i in range(0, len(v.raw), size):
            yield v.raw[i:i + size]


class Tensor:
    def __init__(self, type_name, ne, data):
        self.type, self.ne, self.data = type_name, ne, data

    def sha(self):
        return hashlib.sha256(self.data).hexdigest()[:16]


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise BadFile(f"ends at {len(self.data)} where {count} bytes from {self.at} on are needed")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, letter):
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def string(self):
        return bytes(self.take(self.number("Q")))

    def type_name(self):
        n = self.number("I")
        if n >= len(VALUE_TYPES):
            raise BadFile(f"value type {n} at {self.at - 4}")
        return VALUE_TYPES[n]

    def value(self, type_name):
        if type_name == "STRING":
            raw = self.string()
            return Value("STRING", raw.decode("utf-8", "surrogateescape"), raw)
        if type_name == "ARRAY":
            return self.array()
        raw = bytes(self.take(struct.calcsize("<" + LETTERS[type_name])))
        return Value(type_name, struct.unpack("<" + LETTERS[type_name], raw)[0], raw)

    def array(self):
        element, count = self.type_name(), self.number("Q")
        if element == "ARRAY":
            raise BadFile("an array of arrays")
        begin = self.at
        if element == "STRING":
            values = [self.string().decode("utf-8", "surrogateescape") for _ in range(count)]
        else:
            letters = f"<{count}{LETTERS[element]}"
            values = list(struct.unpack(letters, self.take(struct.calcsize(letters))))
        return Value(f"ARRAY {element}", values, bytes(self.data[begin:self.at]))


class File:
    """`keys`: {name: Value}, `tensors`: {name: Tensor}, both in the order of the file."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        c = Cursor(self.data)
        if c.take(4) != b"GGUF":
            raise BadFile("does not begin with GGUF")
        self.version = c.number("I")
        if self.version != 3:
            raise BadFile(f"version {self.version}, expected 3")
        tensor_count, key_count = c.number("Q"), c.number("Q")
        self.keys = {}
        for _ in range(key_count):
            name = c.string().decode()
            if name in self.keys:
                raise BadFile(f"{name} comes twice")
            self.keys[name] = c.value(c.type_name())
        alignment = self.keys["general.alignment"].value if "general.alignment" in self.keys else 32
        self.tensors = self.read_tensors(c, tensor_count, alignment)

    def read_tensors(self, c, count, alignment):
        rows = []
        for _ in range(count):
            name, dims = c.string().decode(), c.number("I")
            ne = [c.number("Q") for _ in range(dims)]
            rows.append((name, ne, c.number("I"), c.number("Q")))
        start = -(-c.at // alignment) * alignment
        tensors, end = {}, 0
        for name, ne, number, offset in sorted(rows, key=lambda r: r[3]):
            if number not in TENSOR_TYPES:
                raise BadFile(f"{name}: tensor type {number}")
            type_name, per_block, block_bytes = TENSOR_TYPES[number]
            values = 1
            for n in ne:
                values *= n
            size = values // per_block * block_bytes
            if ne and ne[0] % per_block:
                raise BadFile(f"{name}: rows of {ne[0]} for {type_name}")
            if offset != -(-end // alignment) * alignment:
                raise BadFile(f"{name}: begins at {offset}, expected {-(-end // alignment) * alignment}")
            end = offset + size
            if start + end > len(self.data):
                raise BadFile(f"{name}: its bytes end at {start + end}, the file at {len(self.data)}")
            if name in tensors:
                raise BadFile(f"{name} comes twice")
            tensors[name] = Tensor(type_name, ne, self.data[start + offset:start + end])
        if len(self.data) not in (start + end, start + -(-end // alignment) * alignment):
            raise BadFile(f"{len(self.data) - start - end} bytes after the last tensor")
        return {name: tensors[name] for name, *_ in rows}
