#include "moerge/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/json.h"

namespace moerge {
namespace {

// Reads the header as a stream of events, so that hostile depth, duplicates and unknown members are refused
// where they stand and a header of 100 MB never becomes a tree.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& where) : header_(header), where_(where) {}

  bool start_object(std::size_t) override {
    if (++depth_ == 2 && in_metadata_) return true;
    if (depth_ == 1) return true;
    if (depth_ == 2) {
      entry_ = {};
      entry_.spec.name = name_;
      seen_dtype_ = seen_shape_ = false;
      offsets_.clear();
      return true;
    }
    refuse("unexpected object");
  }
  bool end_object() override {
    if (depth_-- == 2) {
      if (in_metadata_)
        in_metadata_ = false;
      else
        finish_entry();
    }
    return true;
  }
  bool key(string_t& key) override {
    if (depth_ == 1) {
      if (!names_.insert(key).second) fail(ErrorKind::input, "{}: two tensors named \"{}\"", where_, key);
      in_metadata_ = key == "__metadata__";
      name_ = key;
    } else {
      member_ = key;
      if (!in_metadata_ && member_ != "dtype" && member_ != "shape" && member_ != "data_offsets")
        refuse("unknown member \"" + member_ + "\"");
    }
    return true;
  }
  bool start_array(std::size_t) override {
    const bool wanted =
        depth_ == 2 && !in_metadata_ && !in_array_ && (member_ == "shape" || member_ == "data_offsets");
    if (!wanted) refuse("unexpected list");
    if (member_ == "shape" ? seen_shape_ : !offsets_.empty()) refuse("\"" + member_ + "\" is given twice");
    if (member_ == "shape") seen_shape_ = true;
    return in_array_ = true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_ || value > INT64_MAX) refuse("a number where none belongs, or too large");
    if (member_ == "shape") {
      if (entry_.spec.shape.size() >= 16) refuse("more than 16 dimensions");
      entry_.spec.shape.push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_.size() >= 2) refuse("\"data_offsets\" should be two numbers");
      offsets_.push_back(static_cast<int64_t>(value));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (in_metadata_ && depth_ == 2) {
      header_.metadata.emplace(member_, value);
      return true;
    }
    if (depth_ != 2 || in_array_ || member_ != "dtype") refuse("a text where none belongs");
    if (seen_dtype_) refuse("\"dtype\" is given twice");
    const DTypeInfo* dtype = nullptr;
    for (const DTypeInfo& row : dtype_table())
      if (!value.empty() && row.safetensors == value) dtype = &row;
    if (!dtype) refuse("unknown dtype \"" + value + "\"");
    entry_.spec.dtype = dtype->dtype;
    seen_dtype_ = true;
    return true;
  }
  bool null() override { refuse("null where none belongs"); }
  bool boolean(bool) override { refuse("true or false where none belongs"); }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a fraction"); }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    (void)error;
    fail(ErrorKind::input, "{}: the header is not valid JSON at byte {}", where_, position);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    if (depth_ < 2) fail(ErrorKind::input, "{}: damaged header: {}", where_, why);
    fail(ErrorKind::input, "{}: damaged header at \"{}\": {}", where_, name_, why);
  }

  void finish_entry() {
    if (!seen_dtype_ || !seen_shape_ || offsets_.size() != 2) {
      depth_++;  // the message names the tensor
      refuse("dtype, shape or data_offsets is missing");
    }
    const std::optional<int64_t> count = checked_count(entry_.spec.shape);
    if (!count || offsets_[1] < offsets_[0] ||
        offsets_[1] - offsets_[0] != byte_size(entry_.spec.dtype, *count))
      fail(ErrorKind::input, "{}: \"{}\": {} of shape {} does not take the {} bytes that its offsets say",
           where_, name_, info(entry_.spec.dtype).safetensors, to_string(entry_.spec.shape),
           offsets_[1] - offsets_[0]);
    entry_.offset = offsets_[0];
    header_.entries.push_back(entry_);
  }

  SafetensorsHeader& header_;
  const std::string& where_;
  std::set<std::string> names_;
  WeightEntry entry_;
  std::string name_, member_;
  std::vector<int64_t> offsets_;
  int depth_ = 0;
  bool in_metadata_ = false, in_array_ = false, seen_dtype_ = false, seen_shape_ = false;
};

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& where) {
  const auto size = static_cast<int64_t>(file.size());
  refuse_git_lfs_pointer(file, where);
  if (size < 8) fail(ErrorKind::input, "{}: {} bytes are no safetensors file", where, size);
  uint64_t length = 0;
  for (size_t i = 0; i < 8; i++) length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeader))
    fail(ErrorKind::input, "{}: no safetensors file, or damaged: its header claims {} bytes", where, length);
  if (length > static_cast<uint64_t>(size - 8))
    fail(ErrorKind::input, "{}: truncated: the header claims {} bytes, the file has {}", where, length, size);

  SafetensorsHeader header;
  HeaderReader reader(header, where);
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  if (length == 0 || text[0] != '{')
    fail(ErrorKind::input, "{}: damaged: the header does not start with \"{{\"", where);
  nlohmann::json::sax_parse(text, text + length, &reader);

  const int64_t data = 8 + static_cast<int64_t>(length);
  std::ranges::sort(header.entries, [](const WeightEntry& a, const WeightEntry& b) {
    return std::pair(a.offset, a.spec.bytes()) < std::pair(b.offset, b.spec.bytes());
  });
  int64_t expected = 0;
  for (WeightEntry& entry : header.entries) {
    if (entry.offset != expected)
      fail(ErrorKind::input,
           "{}: damaged: \"{}\" starts at byte {} of the data, {} expected (a hole or an overlap)", where,
           entry.spec.name, entry.offset, expected);
    expected = entry.offset + entry.spec.bytes();
    if (expected > size - data)
      fail(ErrorKind::input, "{}: truncated: \"{}\" ends at byte {}, the file has {}", where, entry.spec.name,
           data + expected, size);
    entry.offset += data;
  }
  if (data + expected != size)
    fail(ErrorKind::input, "{}: damaged: {} bytes after the last tensor", where, size - data - expected);
  return header;
}

std::string safetensors_header(std::span<const TensorSpec> specs, int64_t padding) {
  nlohmann::ordered_json::object_t json;
  json.reserve(specs.size() + 1);
  json.push_back({"__metadata__", {{"format", "pt"}}});
  int64_t offset = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t end = offset + spec.bytes();
    json.push_back({spec.name,
                    {{"dtype", std::string(info(spec.dtype).safetensors)},
                     {"shape", spec.shape},
                     {"data_offsets", {offset, end}}}});
    offset = end;
  }
  std::string text = nlohmann::ordered_json(std::move(json)).dump();
  text.append((8 - text.size() % 8) % 8 + static_cast<size_t>(padding), ' ');
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; i++) out[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return out + text;
}

}  // namespace moerge
