#include "moerge/base/json.h"

#include "moerge/base/error.h"
#include "moerge/base/file.h"

namespace moerge {
namespace {

const Json* member(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void wrong_type(const Json& value, const char* key, const char* expected,
                             const std::string& where) {
  fail(ErrorKind::input, "{}: \"{}\" should be {}, found {}", where, key, expected, value.type_name());
}

Json parse(std::string_view text, const std::string& where, std::optional<std::string_view> skip) {
  const auto keep = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key) return !skip || value.get_ref<const std::string&>() != *skip;
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kMaxJsonDepth)
      fail(ErrorKind::input, "{}: JSON nested deeper than {} levels", where, kMaxJsonDepth);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), keep);
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."; the bracketed id is noise for
    // users.
    std::string_view message = error.what();
    if (const size_t end = message.find("] "); end != std::string_view::npos) message.remove_prefix(end + 2);
    fail(ErrorKind::input, "{}: not valid JSON: {}", where, message);
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse(text, where, {}); }

Json parse_json_without(std::string_view skip, std::string_view text, const std::string& where) {
  return parse(text, where, skip);
}

Json read_json(const std::filesystem::path& file, int64_t max_bytes) {
  return parse_json(read_file(file, max_bytes), file.string());
}

std::optional<int64_t> json_int(const Json& object, const char* key, const std::string& where) {
  const Json* value = member(object, key);
  if (!value) return {};
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)
    fail(ErrorKind::input, "{}: \"{}\" is too large", where, key);
  if (!value->is_number_integer()) wrong_type(*value, key, "an integer", where);
  return value->get<int64_t>();
}

std::optional<double> json_number(const Json& object, const char* key, const std::string& where) {
  const Json* value = member(object, key);
  if (!value) return {};
  if (!value->is_number()) wrong_type(*value, key, "a number", where);
  return value->get<double>();
}

std::optional<bool> json_bool(const Json& object, const char* key, const std::string& where) {
  const Json* value = member(object, key);
  if (!value) return {};
  if (!value->is_boolean()) wrong_type(*value, key, "true or false", where);
  return value->get<bool>();
}

std::optional<std::string> json_string(const Json& object, const char* key, const std::string& where) {
  const Json* value = member(object, key);
  if (!value) return {};
  if (!value->is_string()) wrong_type(*value, key, "a string", where);
  return value->get<std::string>();
}

}  // namespace moerge
