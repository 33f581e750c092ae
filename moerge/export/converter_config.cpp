#include "moerge/export/converter_config.h"

#include <cmath>

#include "moerge/base/error.h"

namespace moerge {
namespace {

const Json* member(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

int64_t checked_count(const Json& value, const char* key, int64_t least, const std::string& where) {
  if (!value.is_number_integer())
    fail(ErrorKind::input, "{}: \"{}\" should be a whole number, found {}", where, key,
         value.is_number() ? value.dump() : value.type_name());
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= uint64_t{kMaxDimension}
                                               : value.get<int64_t>() <= kMaxDimension;
  if (!fits || value.get<int64_t>() < least)
    fail(ErrorKind::input, "{}: \"{}\" is {}, expected {} to {}", where, key, value.dump(), least,
         kMaxDimension);
  return value.get<int64_t>();
}

double checked_number(const Json& value, const char* key, const std::string& where) {
  if (!value.is_number())
    fail(ErrorKind::input, "{}: \"{}\" should be a number, found {}", where, key, value.type_name());
  const double number = value.get<double>();
  if (!std::isfinite(static_cast<float>(number)))
    fail(ErrorKind::input, "{}: \"{}\" is {}, which a 32-bit number cannot hold", where, key, number);
  return number;
}

double checked_positive(const Json& value, const char* key, const std::string& where) {
  const double number = checked_number(value, key, where);
  if (!(static_cast<float>(number) > 0))
    fail(ErrorKind::input, "{}: \"{}\" is {}, expected a positive number", where, key, number);
  return number;
}

}  // namespace

ConverterConfig::ConverterConfig(const ExportFamily& family, const Json& config, std::string where)
    : where_(std::move(where)) {
  if (!config.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", where_);
  if (family.config_class) {
    ReadConfig read = read_as_class(*family.config_class, config);
    values_ = std::move(read.values);
    refusal_ = std::move(read.refusal);
  } else {
    values_ = config;
  }
  read_rope();
}

const Json* ConverterConfig::find(Keys keys) const {
  for (const char* key : keys)
    if (const Json* value = member(values_, key)) return value->is_null() ? nullptr : value;
  return nullptr;
}

std::optional<int64_t> ConverterConfig::count(Keys keys, int64_t least) const {
  for (const char* key : keys)
    if (const Json* value = member(values_, key))
      return value->is_null() ? std::nullopt : std::optional(checked_count(*value, key, least, where_));
  return {};
}

int64_t ConverterConfig::needed_count(Keys keys, int64_t least) const {
  const std::optional<int64_t> value = count(keys, least);
  if (value) return *value;
  if (refusal_.empty()) fail(ErrorKind::input, "{}: \"{}\" is missing", where_, *keys.begin());
  fail(ErrorKind::input,
       "{}: \"{}\" is missing (transformers' defaults do not apply, because it refuses the file: {})", where_,
       *keys.begin(), refusal_);
}

std::optional<double> ConverterConfig::number(Keys keys) const {
  for (const char* key : keys)
    if (const Json* value = member(values_, key))
      return value->is_null() ? std::nullopt : std::optional(checked_number(*value, key, where_));
  return {};
}

bool ConverterConfig::is(const char* key, const Json& value) const {
  const Json* found = member(values_, key);
  return found && *found == value;
}

int64_t ConverterConfig::head_dim() const {
  if (const auto given = count({"head_dim"})) return *given;
  const int64_t hidden = needed_count({"hidden_size"}), heads = needed_count({"num_attention_heads"});
  if (hidden < heads)
    fail(ErrorKind::input, "{}: hidden_size {} is smaller than num_attention_heads {}", where_, hidden,
         heads);
  return hidden / heads;
}

// The class has put everything into "rope_parameters"; a file that is used as it is may have it in many
// places.
void ConverterConfig::read_rope() {
  const Json* found = member(values_, "rope_parameters");
  if (!found) found = member(values_, "rope_scaling");
  Json rope = found && !is_false(*found) ? *found : Json::object();
  if (!rope.is_object()) fail(ErrorKind::input, "{}: its rope settings should be an object", where_);
  const bool per_kind = rope.contains("full_attention") || rope.contains("sliding_attention");
  if (!per_kind) {
    if (const Json* local = find({"local_rope_theta", "rope_local_theta", "rope_theta_local",
                                  "swa_rope_theta", "rope_local_base_freq"}))
      sliding_theta_ = checked_positive(*local, "local_rope_theta", where_);
    const Json* theta = find(
        {"global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base"});
    if (theta && !rope.contains("rope_theta")) rope["rope_theta"] = *theta;
    if (const Json* type = member(rope, "type"); type && !rope.contains("rope_type"))
      rope["rope_type"] = *type;
    const Json* length = find({"original_max_position_embeddings"});
    if (length && !rope.contains("original_max_position_embeddings"))
      rope["original_max_position_embeddings"] = *length;
    rope_ = std::move(rope);
    return;
  }
  const Json sliding = rope.value("sliding_attention", Json());
  if (sliding.is_object() && sliding.contains("rope_theta") && !sliding["rope_theta"].is_null())
    sliding_theta_ = checked_positive(sliding["rope_theta"], "rope_theta", where_);
  rope_ = rope.contains("full_attention") ? rope["full_attention"] : rope;
  if (!rope_.is_object()) fail(ErrorKind::input, "{}: its rope settings should be an object", where_);
}

std::optional<double> ConverterConfig::rope_number(const char* key) const {
  const Json* value = member(rope_, key);
  return value && !value->is_null() ? std::optional(checked_number(*value, key, where_)) : std::nullopt;
}

std::optional<double> ConverterConfig::rope_positive(const char* key) const {
  const Json* value = member(rope_, key);
  return value && !value->is_null() ? std::optional(checked_positive(*value, key, where_)) : std::nullopt;
}

std::optional<int64_t> ConverterConfig::rope_count(const char* key) const {
  const Json* value = member(rope_, key);
  return value && !value->is_null() ? std::optional(checked_count(*value, key, 1, where_)) : std::nullopt;
}

std::string ConverterConfig::rope_type() const {
  return json_string(rope_, "rope_type", where_).value_or("");
}

}  // namespace moerge
