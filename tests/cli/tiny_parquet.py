"""Parquet files without a library: one page a column, no compression. And the pieces of which broken ones are made.

A column is (name, kind, values): kind "text", "int", "float" or "bool"; None is null. Lists of texts are "texts", of
whole numbers "ints".
"""
import struct

BOOL, I32, I64, LIST, STRUCT, BINARY = 1, 5, 6, 9, 12, 8
TYPES = {"text": 6, "texts": 6, "int": 2, "ints": 2, "float": 5, "bool": 0}  # Parquet's physical types
LISTS = {"texts": "text", "ints": "int"}


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def zigzag(value):
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def binary(text):
    data = text if isinstance(text, bytes) else text.encode()
    return varint(len(data)) + data


def struct_of(*fields):
    """Thrift's compact protocol: (id, kind, bytes) of each field."""
    out, last = b"", 0
    for number, kind, data in fields:
        out += bytes([(number - last) << 4 | kind]) if 0 < number - last < 16 else bytes([kind]) + zigzag(number)
        out, last = out + data, number
    return out + b"\0"


def list_of(kind, items, size=None):
    size = len(items) if size is None else size
    return (bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + varint(size)) + b"".join(items)


def node(name, children=None, type=None, repetition=None, converted=None):
    """An element of a schema. Repetition: 0 required, 1 optional, 2 repeated. Converted type: 0 UTF8, 3 LIST."""
    fields = [(1, I32, type), (3, I32, repetition), (4, BINARY, binary(name)), (5, I32, children), (6, I32, converted)]
    return struct_of(*[(number, kind, data if isinstance(data, bytes) else zigzag(data))
                       for number, kind, data in fields if data is not None])


def nodes(name, kind):
    if kind not in LISTS:
        return [node(name, None, TYPES[kind], 1, 0 if kind == "text" else None)]
    element = node("element", None, TYPES[kind], 1, 0 if kind == "texts" else None)
    return [node(name, 1, None, 1, 3), node("list", 1, None, 2), element]


def levels(values, width):
    """Repetition or definition levels: one bit-packed run of 8 bits or less a value."""
    groups = -(-len(values) // 8)
    number = sum(value << (i * width) for i, value in enumerate(values))
    data = varint(groups << 1 | 1) + number.to_bytes(groups * width, "little")
    return struct.pack("<I", len(data)) + data


def plain(kind, values):
    if kind in ("text", "texts"):
        data = [value if isinstance(value, bytes) else value.encode() for value in values]
        return b"".join(struct.pack("<I", len(it)) + it for it in data)
    if kind == "bool":
        return sum(bool(value) << i for i, value in enumerate(values)).to_bytes(-(-len(values) // 8), "little")
    return b"".join(struct.pack("<q" if kind == "int" else "<d", value) for value in values)


def page_header(size, stored, values, encoding=0, kind=0):
    """Kind: 0 data, 2 dictionary. Encoding: 0 plain, 8 by dictionary; levels are runs (3)."""
    head = [(1, I32, zigzag(values)), (2, I32, zigzag(encoding))]
    if kind == 0:
        head += [(3, I32, zigzag(3)), (4, I32, zigzag(3))]
    return struct_of((1, I32, zigzag(kind)), (2, I32, zigzag(size)), (3, I32, zigzag(stored)),
                     (5 if kind == 0 else 7, STRUCT, struct_of(*head)))


def page(kind, values):
    """The page of a column, and how many values it counts."""
    if kind not in LISTS:
        present = [value for value in values if value is not None]
        data = levels([value is not None for value in values], 1) + plain(kind, present)
        return page_header(len(data), len(data), len(values)) + data, len(values)
    repetitions, definitions, all_items = [], [], []
    for row in values:
        items = row or [None]
        for i, item in enumerate(items):
            repetitions.append(int(i > 0))
            definitions.append(0 if row is None else 1 if not row else 2 if item is None else 3)
            all_items += [item] if row and item is not None else []
    data = levels(repetitions, 1) + levels(definitions, 2) + plain(LISTS[kind], all_items)
    return page_header(len(data), len(data), len(definitions)) + data, len(definitions)


def path_of(name, kind):
    return [name, "list", "element"] if kind in LISTS else [name]


def chunk(path, type, start, size, values, codec=0, dictionary=None):
    """Where a column of a group of rows lies."""
    meta = [(1, I32, zigzag(type)), (2, LIST, list_of(I32, [zigzag(0), zigzag(3)])),
            (3, LIST, list_of(BINARY, [binary(part) for part in path])), (4, I32, zigzag(codec)),
            (5, I64, zigzag(values)), (6, I64, zigzag(size)), (7, I64, zigzag(size)), (9, I64, zigzag(start))]
    if dictionary is not None:
        meta.append((11, I64, zigzag(dictionary)))
    return struct_of((2, I64, zigzag(start)), (3, STRUCT, struct_of(*meta)))


def footer(schema, groups, rows, schema_size=None):
    data = struct_of((1, I32, zigzag(1)), (2, LIST, list_of(STRUCT, schema, schema_size)), (3, I64, zigzag(rows)),
                     (4, LIST, list_of(STRUCT, groups)))
    return data + struct.pack("<I", len(data)) + b"PAR1"


def group(chunks, rows):
    return struct_of((1, LIST, list_of(STRUCT, chunks)), (2, I64, zigzag(1)), (3, I64, zigzag(rows)))


def parquet(columns, groups=1):
    """A file whose rows are in so many groups, all with the same rows."""
    rows = len(columns[0][2])
    schema = [node("schema", len(columns))] + [it for name, kind, _ in columns for it in nodes(name, kind)]
    out, all_groups = b"PAR1", []
    for _ in range(groups):
        chunks = []
        for name, kind, values in columns:
            data, count = page(kind, values)
            chunks.append(chunk(path_of(name, kind), TYPES[kind], len(out), len(data), count))
            out += data
        all_groups.append(group(chunks, rows))
    return out + footer(schema, all_groups, rows * groups)
