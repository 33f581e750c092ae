#include "moerge/formats/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>

#include "moerge/base/error.h"
#include "moerge/formats/weight_files.h"

namespace moerge {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint32_t kArrayType = 9;
constexpr int64_t kMaxAlignment = int64_t{1} << 31;

// Value types in the order of GgufValue's first alternatives; arrays of them follow in the same order.
constexpr size_t kScalars = std::variant_size_v<GgufValue> / 2;

constexpr uint32_t type_number(size_t scalar) {
  return static_cast<uint32_t>(scalar < kArrayType ? scalar : scalar + 1);
}

std::optional<size_t> scalar_of(uint32_t type) {
  if (type == kArrayType || type > kScalars) return {};
  return type < kArrayType ? type : type - 1;
}

template <typename T>
struct Element;  // of an array
template <typename T>
struct Element<std::vector<T>> {
  using type = T;
};
template <typename T>
constexpr bool is_array = false;
template <typename T>
constexpr bool is_array<std::vector<T>> = true;

int64_t round_up(int64_t value, int64_t alignment) { return (value + alignment - 1) / alignment * alignment; }

// A name in a message: no longer than a line.
std::string_view shown(std::string_view name) { return name.substr(0, 100); }

// Reads from the start of the file. Nothing is allocated before the bytes that fill it are known to be there.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, const std::string& where)
      : bytes_(file.first(std::min(file.size(), static_cast<size_t>(kMaxGgufHeader)))),
        file_size_(file.size()),
        where_(where) {}

  size_t position() const { return position_; }

  std::span<const std::byte> take(size_t count, std::string_view what) {
    if (count > left()) refuse(count, 1, what);
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  /// How many of something follow, each of at least `smallest` bytes.
  size_t count(size_t smallest, std::string_view what) {
    const auto claimed = number<uint64_t>("bytes of a count");
    if (claimed > left() / smallest) refuse(claimed, smallest, what);
    return static_cast<size_t>(claimed);
  }

  std::string text(std::string_view what) {
    const size_t length = count(1, what);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), length};
  }

  template <typename T>
  T value() {
    if constexpr (std::is_same_v<T, std::string>) {
      return text("characters of a text");
    } else if constexpr (std::is_same_v<T, bool>) {
      return number<uint8_t>("bytes of a truth value") != 0;
    } else if constexpr (is_array<T>) {
      using E = typename Element<T>::type;
      constexpr bool is_text = std::is_same_v<E, std::string>;
      const size_t length = count(is_text ? sizeof(uint64_t) : sizeof(E), "elements of an array");
      T array;
      array.reserve(length);
      for (size_t i = 0; i < length; i++) array.push_back(value<E>());
      return array;
    } else {
      return number<T>("bytes of a number");
    }
  }

 private:
  size_t left() const { return bytes_.size() - position_; }

  [[noreturn]] void refuse(uint64_t count, size_t smallest, std::string_view what) const {
    if (const size_t follow = file_size_ - position_; count > follow / smallest)
      fail(ErrorKind::input, "{}: truncated or damaged: {} {} from byte {} on, where {} bytes follow", where_,
           count, what, position_, follow);
    fail(ErrorKind::input, "{}: damaged: its metadata and tensor list take more than {} bytes", where_,
         kMaxGgufHeader);
  }

  std::span<const std::byte> bytes_;
  size_t file_size_, position_ = 0;
  const std::string& where_;
};

template <size_t I>
GgufValue read_alternative(Cursor& cursor) {
  return GgufValue(std::in_place_index<I>, cursor.value<std::variant_alternative_t<I, GgufValue>>());
}

template <size_t... I>
constexpr auto make_readers(std::index_sequence<I...>) {
  return std::array<GgufValue (*)(Cursor&), sizeof...(I)>{read_alternative<I>...};
}
constexpr auto kReaders = make_readers(std::make_index_sequence<2 * kScalars>());

void check_start(Cursor& cursor, const std::string& where) {
  const auto magic = cursor.take(kMagic.size(), "bytes of \"GGUF\"");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0)
    fail(ErrorKind::input, "{}: no GGUF file: it does not begin with \"GGUF\"", where);
  const auto version = cursor.number<uint32_t>("bytes of a version");
  if ((version & 0xffffu) == 0 && version != 0)
    fail(ErrorKind::unsupported, "{}: a big-endian GGUF file: convert the model again for this machine",
         where);
  if (version == 1)
    fail(ErrorKind::unsupported, "{}: GGUF version 1, which nobody reads any more: convert the model again",
         where);
  if (version < 1 || version > kVersion)
    fail(ErrorKind::unsupported, "{}: GGUF version {}, versions 2 and 3 are read", where, version);
}

void read_metadata(Cursor& cursor, size_t keys, GgufMetadata& metadata, const std::string& where) {
  for (size_t i = 0; i < keys; i++) {
    std::string key = cursor.text("characters of a key");
    if (key.empty()) fail(ErrorKind::input, "{}: damaged: metadata key {} is empty", where, i);
    if (metadata.find(key))
      fail(ErrorKind::input, "{}: damaged: two metadata keys \"{}\"", where, shown(key));
    auto type = cursor.number<uint32_t>("bytes of a type");
    const bool array = type == kArrayType;
    if (array) type = cursor.number<uint32_t>("bytes of a type");
    const std::optional<size_t> scalar = scalar_of(type);
    if (!scalar && array && type == kArrayType)
      fail(ErrorKind::unsupported, "{}: \"{}\" is an array of arrays, which nobody writes", where,
           shown(key));
    if (!scalar)
      fail(ErrorKind::input, "{}: damaged: \"{}\" has type {}, which GGUF does not know", where, shown(key),
           type);
    metadata.set(std::move(key), kReaders[*scalar + (array ? kScalars : 0)](cursor));
  }
}

int64_t read_alignment(const GgufMetadata& metadata, const std::string& where) {
  if (!metadata.find(kGgufAlignmentKey)) return kGgufAlignment;
  const int64_t alignment = metadata.integer(kGgufAlignmentKey).value_or(0);
  if (alignment < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0)
    fail(ErrorKind::input, "{}: \"{}\" is {}, a power of two up to 2^31 is expected", where,
         kGgufAlignmentKey, alignment);
  return alignment;
}

// Its offset is still the file's: from the start of the data.
GgufTensor read_tensor(Cursor& cursor, const std::string& where) {
  GgufTensor tensor;
  TensorSpec& spec = tensor.spec;
  spec.name = cursor.text("characters of a tensor's name");
  const auto dimensions = cursor.number<uint32_t>("bytes of a number of dimensions");
  if (dimensions > kMaxDimensions)
    fail(ErrorKind::input, "{}: damaged: \"{}\" has {} dimensions, at most {} are possible", where,
         shown(spec.name), dimensions, kMaxDimensions);
  for (uint32_t i = 0; i < dimensions; i++) {
    const auto n = cursor.number<uint64_t>("bytes of a dimension");
    if (n > INT64_MAX)
      fail(ErrorKind::input, "{}: damaged: a dimension of \"{}\" is {}", where, shown(spec.name), n);
    spec.shape.push_back(static_cast<int64_t>(n));
  }
  std::ranges::reverse(spec.shape);
  if (!checked_count(spec.shape))
    fail(ErrorKind::input, "{}: damaged: \"{}\" of shape {} is larger than any file", where, shown(spec.name),
         to_string(spec.shape));
  const auto type = cursor.number<uint32_t>("bytes of a tensor's type");
  const DTypeInfo* dtype = find_gguf_dtype(type);
  if (!dtype)
    fail(ErrorKind::unsupported, "{}: \"{}\" has tensor type {}, which this program does not know", where,
         shown(spec.name), type);
  spec.dtype = dtype->dtype;
  const int64_t row = spec.shape.empty() ? 1 : spec.shape.back();
  if (row % dtype->block != 0)
    fail(ErrorKind::input, "{}: damaged: \"{}\" is {}, in blocks of {}, and its rows have {} elements", where,
         shown(spec.name), dtype->gguf, dtype->block, row);
  const auto offset = cursor.number<uint64_t>("bytes of a tensor's offset");
  if (offset > INT64_MAX)
    fail(ErrorKind::input, "{}: damaged: \"{}\" starts at byte {} of the data", where, shown(spec.name),
         offset);
  tensor.offset = static_cast<int64_t>(offset);
  return tensor;
}

// Every tensor lies aligned inside the file and on its own; offsets become the file's.
void place_tensors(GgufHeader& header, int64_t data, int64_t file_size, const std::string& where) {
  if (header.tensors.empty()) return;
  if (data > file_size)
    fail(ErrorKind::input, "{}: truncated: the tensors start at byte {}, the file has {}", where, data,
         file_size);
  std::vector<const GgufTensor*> order;
  for (GgufTensor& tensor : header.tensors) {
    const int64_t bytes = tensor.spec.bytes(), space = file_size - data;
    if (tensor.offset % header.alignment != 0)
      fail(ErrorKind::input,
           "{}: damaged: \"{}\" starts at byte {} of the data, a multiple of {} is expected", where,
           shown(tensor.spec.name), tensor.offset, header.alignment);
    if (tensor.offset > space || bytes > space - tensor.offset)
      fail(ErrorKind::input,
           "{}: truncated or damaged: \"{}\" takes {} bytes from byte {} of the data, which has {}", where,
           shown(tensor.spec.name), bytes, tensor.offset, space);
    tensor.offset += data;
    order.push_back(&tensor);
  }
  std::ranges::sort(order, [](const GgufTensor* a, const GgufTensor* b) {
    return std::pair(a->offset, a->spec.bytes()) < std::pair(b->offset, b->spec.bytes());
  });
  for (size_t i = 1; i < order.size(); i++)
    if (order[i - 1]->offset + order[i - 1]->spec.bytes() > order[i]->offset)
      fail(ErrorKind::input, "{}: damaged: \"{}\" and \"{}\" overlap", where, shown(order[i - 1]->spec.name),
           shown(order[i]->spec.name));
}

template <typename T>
void append(std::string& out, T value) requires std::is_arithmetic_v<T> {
  const size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}

void append(std::string& out, const std::string& text) {
  append(out, static_cast<uint64_t>(text.size()));
  out += text;
}

void append_value(std::string& out, const GgufValue& value) {
  const size_t index = value.index();
  if (index >= kScalars) append(out, kArrayType);
  append(out, type_number(index % kScalars));
  std::visit(
      [&out](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (is_array<T>) {
          append(out, static_cast<uint64_t>(held.size()));
          for (const auto& element : held) append(out, static_cast<typename T::value_type>(element));
        } else {
          append(out, held);
        }
      },
      value);
}

}  // namespace

GgufMetadata::GgufMetadata() = default;
GgufMetadata::GgufMetadata(const GgufMetadata& other) = default;
GgufMetadata::GgufMetadata(GgufMetadata&& other) noexcept = default;
GgufMetadata& GgufMetadata::operator=(const GgufMetadata& other) = default;
GgufMetadata& GgufMetadata::operator=(GgufMetadata&& other) noexcept = default;
GgufMetadata::~GgufMetadata() = default;

void GgufMetadata::set(std::string key, GgufValue value) {
  const auto [found, added] = places_.emplace(key, entries_.size());
  if (added)
    entries_.emplace_back(std::move(key), std::move(value));
  else
    entries_[found->second].second = std::move(value);
}

void GgufMetadata::erase(std::string_view key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return;
  const size_t place = found->second;
  places_.erase(found);
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(place));
  for (auto& [name, other] : places_)
    if (other > place) other--;
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = places_.find(key);
  return found == places_.end() ? nullptr : &entries_[found->second].second;
}

std::optional<int64_t> GgufMetadata::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return {};
  return std::visit(
      [](const auto& held) -> std::optional<int64_t> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<int64_t>(held)) return static_cast<int64_t>(held);
        }
        return {};
      },
      *value);
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return {};
  return std::visit(
      [](const auto& held) -> std::optional<double> {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) return static_cast<double>(held);
        return {};
      },
      *value);
}

std::optional<bool> GgufMetadata::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  const bool* held = value ? std::get_if<bool>(value) : nullptr;
  return held ? std::optional(*held) : std::nullopt;
}

const std::string* GgufMetadata::string(std::string_view key) const {
  const GgufValue* value = find(key);
  return value ? std::get_if<std::string>(value) : nullptr;
}

GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& where) {
  refuse_git_lfs_pointer(file, where);
  Cursor cursor(file, where);
  check_start(cursor, where);
  GgufHeader header;
  constexpr size_t kSmallestTensor = 8 + 4 + 4 + 8, kSmallestPair = 8 + 1 + 4 + 1;
  const size_t tensors = cursor.count(kSmallestTensor, "tensors");
  const size_t keys = cursor.count(kSmallestPair, "metadata keys");
  read_metadata(cursor, keys, header.metadata, where);
  header.alignment = read_alignment(header.metadata, where);
  std::set<std::string> names;
  for (size_t i = 0; i < tensors; i++) {
    header.tensors.push_back(read_tensor(cursor, where));
    const std::string& name = header.tensors.back().spec.name;
    if (!names.insert(name).second)
      fail(ErrorKind::input, "{}: damaged: two tensors named \"{}\"", where, shown(name));
  }
  place_tensors(header, round_up(static_cast<int64_t>(cursor.position()), header.alignment), std::ssize(file),
                where);
  return header;
}

GgufLayout layout_gguf(const GgufMetadata& metadata, std::span<const TensorSpec> specs) {
  const int64_t alignment = metadata.integer(kGgufAlignmentKey).value_or(kGgufAlignment);
  GgufLayout layout;
  std::string& out = layout.header;
  out = kMagic;
  append(out, kVersion);
  append(out, static_cast<uint64_t>(specs.size()));
  append(out, static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    append(out, key);
    append_value(out, value);
  }
  int64_t offset = 0;
  for (const TensorSpec& spec : specs) {
    if (info(spec.dtype).gguf_id < 0)
      fail(ErrorKind::unsupported, "\"{}\" is {}, which GGUF files cannot hold", spec.name,
           info(spec.dtype).name());
    append(out, spec.name);
    append(out, static_cast<uint32_t>(spec.shape.size()));
    for (auto n = spec.shape.rbegin(); n != spec.shape.rend(); ++n) append(out, static_cast<uint64_t>(*n));
    append(out, static_cast<uint32_t>(info(spec.dtype).gguf_id));
    append(out, static_cast<uint64_t>(offset));
    layout.offsets.push_back(offset);
    offset += round_up(spec.bytes(), alignment);
  }
  const int64_t data = round_up(std::ssize(out), alignment);
  out.resize(static_cast<size_t>(data));
  for (int64_t& place : layout.offsets) place += data;
  layout.file_size = data + offset;
  return layout;
}

}  // namespace moerge
