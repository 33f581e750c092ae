#pragma once
// Files as torch.save writes them, small enough for unit tests: opcodes and zip records put together by hand,
// without the code under test, so that each can be wrong in its own way.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "moerge/testing/tiny_model.h"

namespace moerge::testing {

/// The lower `bytes` bytes of a number, at most 8, little-endian.
inline std::string le(uint64_t value, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; i++) out += static_cast<char>(value >> (8 * i) & 0xff);
  return out;
}

// -------- zip

struct TinyZipEntry {
  std::string name, bytes;
  int method = 0, flags = 0x0808;  // torch's: sizes follow the data, names are UTF-8
  std::string local_name = {};     // empty: as in the directory
  uint64_t claimed_size = UINT64_MAX;
  int64_t claimed_offset = -1;
};

/// An archive; with `wide` every size, place and count stands in zip64 records.
inline std::string zip_bytes(const std::vector<TinyZipEntry>& entries, bool wide = false) {
  std::string out, directory;
  for (const TinyZipEntry& entry : entries) {
    const uint64_t size = entry.claimed_size == UINT64_MAX ? entry.bytes.size() : entry.claimed_size;
    const uint64_t offset =
        entry.claimed_offset < 0 ? out.size() : static_cast<uint64_t>(entry.claimed_offset);
    const std::string& local = entry.local_name.empty() ? entry.name : entry.local_name;
    const std::string padding = "FB" + le(5, 2) + "ZZZZZ";  // what torch aligns the data with
    const std::string common = le(static_cast<uint64_t>(entry.flags), 2) +
                               le(static_cast<uint64_t>(entry.method), 2) + std::string(8, '\0');
    out += "PK\3\4" + le(20, 2) + common + le(0, 8) + le(local.size(), 2) + le(padding.size(), 2) + local +
           padding + entry.bytes;
    const std::string extra = wide ? le(1, 2) + le(24, 2) + le(size, 8) + le(size, 8) + le(offset, 8) : "";
    const auto narrow = [wide](uint64_t value) { return le(wide ? UINT32_MAX : value, 4); };
    directory += "PK\1\2" + le(20, 2) + le(20, 2) + common + narrow(size) + narrow(size) +
                 le(entry.name.size(), 2) + le(extra.size(), 2) + std::string(2 + 2 + 2 + 4, '\0') +
                 narrow(offset) + entry.name + extra;
  }
  const size_t start = out.size(), count = entries.size();
  out += directory;
  const size_t end = out.size();
  if (wide)
    out += "PK\6\6" + le(44, 8) + le(45, 2) + le(45, 2) + le(0, 8) + le(count, 8) + le(count, 8) +
           le(directory.size(), 8) + le(start, 8) + "PK\6\7" + le(0, 4) + le(end, 8) + le(1, 4);
  return out + "PK\5\6" + le(0, 4) + le(wide ? 0xffff : count, 2) + le(wide ? 0xffff : count, 2) +
         le(wide ? UINT32_MAX : directory.size(), 4) + le(wide ? UINT32_MAX : start, 4) + le(0, 2);
}

// -------- pickle: opcodes that leave one value on the stack

using Opcodes = std::string;

inline Opcodes joined(const std::vector<Opcodes>& parts) {
  Opcodes out;
  for (const Opcodes& part : parts) out += part;
  return out;
}
inline Opcodes py_text(const std::string& text) { return "X" + le(text.size(), 4) + text; }
inline Opcodes py_int(int64_t value) { return std::string("\x8a\x08") + le(static_cast<uint64_t>(value), 8); }
inline Opcodes py_tuple(const std::vector<Opcodes>& items) { return "(" + joined(items) + "t"; }
inline Opcodes py_ints(const std::vector<int64_t>& values) {
  std::vector<Opcodes> items;
  for (const int64_t value : values) items.push_back(py_int(value));
  return py_tuple(items);
}
inline Opcodes py_list(const std::vector<Opcodes>& items) { return "](" + joined(items) + "e"; }
inline Opcodes py_global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline Opcodes py_call(const Opcodes& function, const std::vector<Opcodes>& arguments) {
  return function + py_tuple(arguments) + "R";
}
/// Keys and values in turns.
inline Opcodes py_dict(const std::vector<Opcodes>& items) { return "}(" + joined(items) + "u"; }
inline Opcodes py_hooks() { return py_call(py_global("collections", "OrderedDict"), {}); }
inline std::string pickle_bytes(const Opcodes& root) { return "\x80\x02" + root + "."; }

// -------- torch

inline Opcodes torch_storage(const std::string& type, const std::string& key, int64_t elements) {
  return py_tuple(
             {py_text("storage"), py_global("torch", type), py_text(key), py_text("cpu"), py_int(elements)}) +
         "Q";
}

inline Opcodes torch_tensor(const Opcodes& storage, int64_t offset, const std::vector<int64_t>& size,
                            const std::vector<int64_t>& stride) {
  return py_call(py_global("torch._utils", "_rebuild_tensor_v2"),
                 {storage, py_int(offset), py_ints(size), py_ints(stride), "\x89", py_hooks()});
}

/// A file of this pickle and these storages (key, bytes).
inline std::string torch_file(const Opcodes& root,
                              const std::vector<std::pair<std::string, std::string>>& storages = {}) {
  std::vector<TinyZipEntry> entries = {{"archive/data.pkl", pickle_bytes(root)},
                                       {"archive/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) entries.push_back({"archive/data/" + key, bytes});
  entries.push_back({"archive/version", "3\n"});
  return zip_bytes(entries);
}

/// What torch.save writes for these tensors, each in a storage of its own.
inline std::string pytorch_bytes(const std::vector<TinyTensor>& tensors) {
  std::vector<Opcodes> items;
  std::vector<std::pair<std::string, std::string>> storages;
  for (const TinyTensor& tensor : tensors) {
    std::vector<int64_t> stride(tensor.shape.size());
    int64_t count = 1;
    for (size_t i = stride.size(); i-- > 0; count *= tensor.shape[i]) stride[i] = count;
    const std::string type = tensor.dtype == "F32"    ? "FloatStorage"
                             : tensor.dtype == "BF16" ? "BFloat16Storage"
                                                      : "ByteStorage";
    const std::string key = std::to_string(storages.size());
    items.push_back(py_text(tensor.name));
    items.push_back(torch_tensor(torch_storage(type, key, count), 0, tensor.shape, stride));
    storages.emplace_back(key, tensor.bytes);
  }
  return torch_file(py_dict(items), storages);
}

}  // namespace moerge::testing
