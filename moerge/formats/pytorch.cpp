#include "moerge/formats/pytorch.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "moerge/base/error.h"
#include "moerge/formats/pickle.h"
#include "moerge/formats/zip.h"

namespace moerge {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;

// torch.save before 1.6: a pickle of this number (0x1950a86a20f9469cfc6c) with nothing around it.
constexpr std::string_view kOldMagic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr size_t kMaxDimensions = 16;

struct StorageType {
  std::string_view global;
  DType dtype;
};
constexpr std::array<StorageType, 10> kStorages = {{
    {"torch.DoubleStorage", DType::f64},
    {"torch.FloatStorage", DType::f32},
    {"torch.HalfStorage", DType::f16},
    {"torch.BFloat16Storage", DType::bf16},
    {"torch.LongStorage", DType::i64},
    {"torch.IntStorage", DType::i32},
    {"torch.ShortStorage", DType::i16},
    {"torch.CharStorage", DType::i8},
    {"torch.ByteStorage", DType::u8},
    {"torch.BoolStorage", DType::boolean},
}};
// Bytes, for the tensors whose type has no storage of its own (float8, uint16).
constexpr std::string_view kUntyped = "torch.storage.UntypedStorage";

constexpr std::string_view kTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kTypedTensor = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kParameterWithState = "torch._utils._rebuild_parameter_with_state";
constexpr std::string_view kSize = "torch.Size";

std::optional<DType> storage_dtype(std::string_view global) {
  const auto found = std::ranges::find(kStorages, global, &StorageType::global);
  return found == kStorages.end() ? std::nullopt : std::optional(found->dtype);
}

// "torch.float8_e4m3fn".
std::optional<DType> torch_dtype(std::string_view global) {
  if (!global.starts_with("torch.")) return {};
  const auto found = std::ranges::find(dtype_table(), global.substr(6), &DTypeInfo::torch);
  return found == dtype_table().end() ? std::nullopt : std::optional(found->dtype);
}

// Types that torch has and this program does not (torch.ComplexFloatStorage, torch.complex64): names, which
// do nothing, so that the message can name the tensor.
bool is_foreign_type(std::string_view global) {
  constexpr std::array<std::string_view, 8> kForeign = {
      "torch.ComplexFloatStorage", "torch.ComplexDoubleStorage", "torch.complex32",
      "torch.complex64",           "torch.complex128",           "torch.float8_e4m3fnuz",
      "torch.float8_e5m2fnuz",     "torch.float8_e8m0fnu"};
  return std::ranges::find(kForeign, global) != kForeign.end();
}

bool is_known(std::string_view global) {
  return global == kTensor || global == kTypedTensor || global == kParameter ||
         global == kParameterWithState || global == kSize || global == kUntyped || storage_dtype(global) ||
         torch_dtype(global) || is_foreign_type(global);
}

std::string_view text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

[[noreturn]] void refuse_other_format(std::span<const std::byte> file, const std::string& where) {
  refuse_git_lfs_pointer(file, where);
  const std::string_view start = text(file.first(std::min<size_t>(file.size(), 64)));
  if (start.find(kOldMagic) != std::string_view::npos)
    fail(
        ErrorKind::unsupported,
        "{}: written by torch.save before version 1.6 (or without its zip format): load it in torch once and "
        "save it again",
        where);
  fail(ErrorKind::input, "{}: {} bytes that are no zip archive, which torch.save writes", where, file.size());
}

// The entries of the archive, all of them stored as they are.
std::vector<ZipEntry> read_archive(std::span<const std::byte> file, const std::string& where) {
  std::vector<ZipEntry> entries = read_zip_directory(file, where);
  for (const ZipEntry& entry : entries)
    if (entry.name.ends_with("/constants.pkl") || entry.name.find("/code/") != std::string::npos)
      fail(ErrorKind::unsupported,
           "{}: a TorchScript program (\"{}\"), not weights: save the model's state_dict() instead", where,
           shown_text(entry.name));
  for (const ZipEntry& entry : entries)
    if (entry.compression != 0)
      fail(ErrorKind::unsupported,
           "{}: \"{}\" is compressed (method {}), which torch.save does not do: load the file in torch and "
           "save it again",
           where, shown_text(entry.name), entry.compression);
  return entries;
}

// The archive's folder, "" or with a slash at the end.
std::string_view archive_prefix(const std::vector<ZipEntry>& entries, const std::string& where) {
  constexpr std::string_view kPickle = "data.pkl";
  std::optional<std::string_view> prefix;
  for (const ZipEntry& entry : entries) {
    const std::string_view name = entry.name;
    if (name != kPickle && !name.ends_with("/data.pkl")) continue;
    if (prefix) fail(ErrorKind::input, "{}: damaged: two entries are called data.pkl", where);
    prefix = name.substr(0, name.size() - kPickle.size());
  }
  if (!prefix)
    fail(ErrorKind::input, "{}: a zip archive without data.pkl: torch.save did not write it", where);
  return *prefix;
}

class StateDictReader {
 public:
  StateDictReader(std::span<const std::byte> file, const std::string& where)
      : file_(file),
        where_(where),
        entries_(read_archive(file, where)),
        prefix_(archive_prefix(entries_, where)),
        places_(places()),
        pickle_(bytes_of("data.pkl"), is_known, where) {
    if (places_.contains("byteorder") && text(bytes_of("byteorder")) != "little")
      fail(ErrorKind::unsupported, "{}: its byte order is \"{}\": save it on a little-endian machine", where,
           shown_text(text(bytes_of("byteorder"))));
  }

  std::vector<WeightEntry> read() {
    const std::span<const Ref> dict = state_dict();
    std::vector<WeightEntry> out;
    std::set<std::string_view> names;
    for (size_t i = 0; i < dict.size(); i += 2) {
      if (pickle_.kind(dict[i]) != Kind::text)
        fail(ErrorKind::input, "{}: a key of its dict is no text, and so no name of a tensor", where_);
      name_ = pickle_.text(dict[i]);
      if (!names.insert(name_).second)
        fail(ErrorKind::input, "{}: two tensors named \"{}\"", where_, shown_text(name_));
      if (is_tensor(dict[i + 1]))
        out.push_back(tensor(dict[i + 1]));
      else if (!is_harmless(dict[i + 1]))
        fail(ErrorKind::unsupported, "{}: \"{}\" is neither a tensor nor a plain value: {}", where_,
             shown_text(name_), kExpected);
    }
    std::ranges::stable_sort(out, {}, &WeightEntry::offset);
    return out;
  }

 private:
  static constexpr std::string_view kExpected =
      "a file of weights is a dict of tensors, as torch.save(model.state_dict(), FILE) writes it";

  struct Storage {
    DType dtype;  // u8: bytes
    bool typed;
    int64_t offset, bytes;
  };

  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> why, Args&&... args) const {
    fail(ErrorKind::input, "{}: damaged: \"{}\": {}", where_, shown_text(name_),
         fmt::format(why, std::forward<Args>(args)...));
  }

  // -------- the archive

  std::map<std::string_view, const ZipEntry*> places() const {
    std::map<std::string_view, const ZipEntry*> out;
    for (const ZipEntry& entry : entries_)
      if (entry.name.starts_with(prefix_)) out[std::string_view(entry.name).substr(prefix_.size())] = &entry;
    return out;
  }

  std::span<const std::byte> bytes_of(std::string_view name) const {
    const ZipEntry& entry = *places_.at(name);
    return file_.subspan(static_cast<size_t>(entry.offset), static_cast<size_t>(entry.size));
  }

  // -------- the dict

  bool is_call(Ref value, std::string_view function) const {
    return pickle_.kind(value) == Kind::call && pickle_.text(pickle_.items(value)[0]) == function;
  }

  bool is_tensor(Ref value) const { return pickle_.kind(value) == Kind::call && !is_call(value, kSize); }

  bool is_harmless(Ref value) const {
    switch (pickle_.kind(value)) {
      case Kind::none:
      case Kind::boolean:
      case Kind::integer:
      case Kind::real:
      case Kind::text:
        return true;
      case Kind::global:
        return torch_dtype(pickle_.text(value)) || is_foreign_type(pickle_.text(value));
      case Kind::call:
        return is_call(value, kSize);
      case Kind::tuple:
      case Kind::list:
      case Kind::dict:
        return pickle_.items(value).empty();
      case Kind::persistent:
        return false;
    }
    return false;
  }

  // Keys and values in turns of the dict that holds the tensors.
  std::span<const Ref> state_dict() const {
    if (pickle_.kind(pickle_.root()) != Kind::dict)
      fail(ErrorKind::unsupported, "{}: holds no dict: {}", where_, kExpected);
    const std::span<const Ref> outer = pickle_.items(pickle_.root());
    bool nested = false;
    std::optional<Ref> state;
    std::vector<std::string> keys;
    for (size_t i = 0; i < outer.size(); i += 2) {
      if (is_tensor(outer[i + 1])) return outer;
      const bool is_dict = pickle_.kind(outer[i + 1]) == Kind::dict && !pickle_.items(outer[i + 1]).empty();
      nested = nested || is_dict;
      if (pickle_.kind(outer[i]) != Kind::text) continue;
      if (is_dict && pickle_.text(outer[i]) == "state_dict") state = outer[i + 1];
      constexpr size_t kShownKeys = 8;
      if (keys.size() <= kShownKeys)
        keys.push_back(keys.size() == kShownKeys ? "..." : shown_text(pickle_.text(outer[i])));
    }
    if (state) return pickle_.items(*state);
    if (nested)
      fail(ErrorKind::unsupported, "{}: a dict of other things ({}), perhaps a checkpoint of a training: {}",
           where_, fmt::join(keys, ", "), kExpected);
    return outer;
  }

  // -------- tensors

  std::span<const Ref> arguments(Ref call, size_t fewest, size_t most) const {
    const std::span<const Ref> found = pickle_.items(pickle_.items(call)[1]);
    if (found.size() < fewest || found.size() > most)
      damaged("{} takes {} to {} arguments, {} are given", pickle_.text(pickle_.items(call)[0]), fewest, most,
              found.size());
    return found;
  }

  int64_t integer(Ref value, std::string_view what) const {
    if (pickle_.kind(value) != Kind::integer) damaged("its {} is no integer", what);
    return pickle_.integer(value);
  }

  Shape integers(Ref value, std::string_view what) const {
    if (pickle_.kind(value) != Kind::tuple) damaged("its {} is no tuple of integers", what);
    const std::span<const Ref> items = pickle_.items(value);
    if (items.size() > kMaxDimensions) damaged("more than {} dimensions", kMaxDimensions);
    Shape out;
    for (const Ref item : items) out.push_back(integer(item, what));
    return out;
  }

  std::string_view type_name(Ref value) const {
    if (pickle_.kind(value) != Kind::global) damaged("its type is no name");
    return pickle_.text(value);
  }

  [[noreturn]] void refuse_type(std::string_view type) const {
    fail(ErrorKind::unsupported, "{}: \"{}\" is of type {}, which this program does not know", where_,
         shown_text(name_), type);
  }

  // ("storage", type, key, device, elements)
  Storage storage(Ref value) const {
    if (pickle_.kind(value) != Kind::persistent) damaged("its storage is no place in the archive");
    const Ref id = pickle_.items(value)[0];
    const std::span<const Ref> parts =
        pickle_.kind(id) == Kind::tuple ? pickle_.items(id) : std::span<const Ref>();
    if (parts.size() != 5 || pickle_.kind(parts[0]) != Kind::text || pickle_.text(parts[0]) != "storage" ||
        pickle_.kind(parts[2]) != Kind::text)
      damaged("its storage is not described as torch does");
    const std::string_view type = type_name(parts[1]), key = pickle_.text(parts[2]);
    const bool typed = type != kUntyped;
    const std::optional<DType> dtype = typed ? storage_dtype(type) : DType::u8;
    if (!dtype) refuse_type(type);
    const auto place = places_.find(fmt::format("data/{}", key));
    if (place == places_.end())
      damaged("its storage \"{}\" is not in the archive (an unfinished download?)", shown_text(key));
    const int64_t elements = integer(parts[4], "storage's size");
    int64_t bytes = 0;
    if (elements < 0 || __builtin_mul_overflow(elements, info(*dtype).bytes, &bytes) ||
        bytes > place->second->size)
      damaged("its storage should have {} elements of {} and has {} bytes", elements, info(*dtype).name(),
              place->second->size);
    return {*dtype, typed, place->second->offset, bytes};
  }

  // torch._utils._rebuild_parameter(tensor, requires_grad, hooks), also with a state of its own as a fourth.
  Ref unwrapped(Ref value) const {
    if (is_call(value, kParameter)) return arguments(value, 3, 3)[0];
    if (is_call(value, kParameterWithState)) return arguments(value, 4, 4)[0];
    return value;
  }

  // _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata = None), v3 with the
  // type before the metadata; offset and stride count elements.
  WeightEntry tensor(Ref value) const {
    const Ref call = unwrapped(value);
    const bool typed = is_call(call, kTypedTensor);
    if (!typed && !is_call(call, kTensor)) damaged("it is not made as torch makes tensors");
    const size_t fewest = typed ? 7 : 6;
    const std::span<const Ref> parts = arguments(call, fewest, fewest + 1);
    const Storage from = storage(parts[0]);
    std::optional<DType> dtype = from.dtype;
    if (typed) {
      const std::string_view type = type_name(parts[6]);
      dtype = torch_dtype(type);
      if (!dtype) refuse_type(type);
    }
    if (from.typed == typed) damaged("the type of its storage is not that of the tensor");
    // A tensor that is only marked as negative or conjugate has other bytes than its values.
    if (parts.size() > fewest && pickle_.kind(parts[fewest]) != Kind::none &&
        !(pickle_.kind(parts[fewest]) == Kind::dict && pickle_.items(parts[fewest]).empty()))
      fail(ErrorKind::unsupported, "{}: \"{}\" is a view that changes values: save its .clone()", where_,
           shown_text(name_));
    WeightEntry out{{std::string(name_), *dtype, integers(parts[2], "size")}, 0};
    const Shape strides = integers(parts[3], "stride");
    check_strides(out.spec.shape, strides);
    out.offset = from.offset + offset_in(from, out.spec, integer(parts[1], "offset"));
    return out;
  }

  void check_strides(const Shape& shape, const Shape& strides) const {
    if (shape.size() != strides.size()) damaged("{} sizes and {} strides", shape.size(), strides.size());
    const std::optional<int64_t> count = checked_count(shape);
    if (!count) damaged("a tensor of shape {} is larger than any file", to_string(shape));
    if (std::ranges::any_of(strides, [](int64_t stride) { return stride < 0; })) damaged("a negative stride");
    int64_t expected = 1;
    for (size_t i = shape.size(); *count > 0 && i-- > 0;) {
      if (shape[i] != 1 && strides[i] != expected)
        fail(ErrorKind::unsupported,
             "{}: \"{}\" of shape {} is a view with strides {} (transposed, say): save its .contiguous()",
             where_, shown_text(name_), to_string(shape), to_string(strides));
      expected *= shape[i];
    }
  }

  // In bytes from the start of the storage, once it is known that the tensor lies inside.
  int64_t offset_in(const Storage& from, const TensorSpec& spec, int64_t elements) const {
    int64_t offset = 0;
    if (elements < 0 || __builtin_mul_overflow(elements, info(spec.dtype).bytes, &offset) ||
        offset > from.bytes || spec.bytes() > from.bytes - offset)
      damaged("{} bytes from element {} on do not lie in its storage of {} bytes", spec.bytes(), elements,
              from.bytes);
    return offset;
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  std::vector<ZipEntry> entries_;
  std::string_view prefix_;
  std::map<std::string_view, const ZipEntry*> places_;  // by their names after the prefix
  Pickle pickle_;
  std::string_view name_;  // of the tensor at hand
};

}  // namespace

std::vector<WeightEntry> parse_pytorch(std::span<const std::byte> file, const std::string& where) {
  if (!is_zip(file)) refuse_other_format(file, where);
  return StateDictReader(file, where).read();
}

}  // namespace moerge
