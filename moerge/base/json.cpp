#include "moerge/base/json.h"

#include <algorithm>
#include <map>
#include <vector>

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

// Our tree from the parser's events. The library's own takes quadratic time: it looks through a whole list
// after every object in it, and through all keys of an object for every new one.
template <typename KeepMember>
class TreeReader final : public nlohmann::json_sax<Json> {
 public:
  TreeReader(const std::string& where, KeepMember keep_member) : where_(where), keep_member_(keep_member) {}

  Json take() { return std::move(root_); }

  bool null() override { return place(nullptr), true; }
  bool boolean(bool value) override { return place(value), true; }
  bool number_integer(number_integer_t value) override { return place(value), true; }
  bool number_unsigned(number_unsigned_t value) override { return place(value), true; }
  bool number_float(number_float_t value, const string_t&) override { return place(value), true; }
  bool string(string_t& value) override { return place(std::move(value)), true; }
  bool binary(binary_t&) override { return false; }  // not in a text
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return open_.pop_back(), true; }
  bool end_array() override { return open_.pop_back(), true; }
  bool key(string_t& key) override {
    Open& object = open_.back();
    object.member = object.node && keep_member_(key) ? &find_or_add(object, key) : nullptr;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."; the bracketed id is noise for
    // users.
    std::string_view message = error.what();
    if (const size_t end = message.find("] "); end != std::string_view::npos) message.remove_prefix(end + 2);
    fail(ErrorKind::input, "{}: not valid JSON: {}", where_, message);
  }

 private:
  struct Open {                                 // an object or list whose end has not come yet
    Json* node;                                 // null: it is left out
    Json* member = nullptr;                     // of an object: where the next value goes; null: nowhere
    std::map<std::string, size_t> places = {};  // of an object's keys, once they are many
  };

  // Where the value is now; null: it is left out.
  Json* place(Json value) {
    Json* target = &root_;
    if (!open_.empty()) {
      Open& parent = open_.back();
      if (parent.node && parent.node->is_array()) return &parent.node->emplace_back(std::move(value));
      target = parent.member;
    }
    if (target) *target = std::move(value);
    return target;
  }

  bool open(Json empty) {
    if (std::ssize(open_) >= kMaxJsonDepth)
      fail(ErrorKind::input, "{}: JSON nested deeper than {} levels", where_, kMaxJsonDepth);
    open_.push_back({place(std::move(empty))});
    return true;
  }

  // The value of a key; of a key that is there twice the last one counts.
  static Json& find_or_add(Open& object, std::string& key) {
    constexpr size_t kFew = 16;
    auto& members = object.node->template get_ref<Json::object_t&>();
    if (members.size() < kFew) return members[key];
    if (object.places.empty())
      for (const auto& [known, value] : members) object.places.emplace(known, object.places.size());
    const auto [found, added] = object.places.emplace(key, members.size());
    if (added) members.push_back({std::move(key), nullptr});
    return (members.begin() + static_cast<std::ptrdiff_t>(found->second))->second;
  }

  const std::string& where_;
  KeepMember keep_member_;
  Json root_;
  std::vector<Open> open_;
};

template <typename KeepMember>
Json parse(std::string_view text, const std::string& where, KeepMember keep_member) {
  TreeReader reader(where, keep_member);
  Json::sax_parse(text.begin(), text.end(), &reader);
  return reader.take();
}

// Walks over the text of a valid JSON object.
class MemberScanner {
 public:
  explicit MemberScanner(std::string_view text) : text_(text), at_(text.find('{') + 1) {}

  struct Member {
    std::string key;
    size_t begin = 0, end = 0;  // of its value
  };
  /// Empty at the end; place() is then that of the closing brace.
  std::optional<Member> next() {
    skip_space();
    if (text_[at_] == ',') at_++, skip_space();
    if (text_[at_] == '}') return {};
    const size_t key = at_;
    skip_value();
    Member member{.key = Json::parse(text_.substr(key, at_ - key)).get<std::string>()};
    skip_space();
    at_++;  // the colon
    skip_space();
    member.begin = at_;
    skip_value();
    member.end = at_;
    return member;
  }
  size_t place() const { return at_; }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size() - 1); }
  void skip_value() {
    int depth = 0;
    do {
      const char c = text_[at_];
      if (c == '"') {
        for (at_++; text_[at_] != '"'; at_++) at_ += text_[at_] == '\\' ? 1 : 0;
        at_++;
      } else if (c == '{' || c == '[') {
        depth++, at_++;
      } else if (c == '}' || c == ']') {
        depth--, at_++;
      } else if (depth > 0) {
        at_++;
      } else {  // a number, true, false or null
        at_ = std::min(text_.find_first_of(",}] \t\r\n", at_), text_.size());
      }
    } while (depth > 0);
  }

  std::string_view text_;
  size_t at_;
};

}  // namespace

std::string set_json_member(std::string_view text, std::string_view key, const Json& value,
                            const std::string& where) {
  if (!parse_json(text, where).is_object()) fail(ErrorKind::input, "{}: should be a JSON object", where);
  const std::string shown = value.dump();
  MemberScanner scanner(text);
  std::optional<MemberScanner::Member> found;
  size_t last = 0;  // the end of the last value
  while (const auto member = scanner.next()) {
    if (member->key == key) found = member;
    last = member->end;
  }
  std::string out(text);
  if (found) return out.replace(found->begin, found->end - found->begin, shown);
  const std::string added = fmt::format("\n  {}: {}", Json(key).dump(), shown);
  if (last > 0) return out.insert(last, "," + added);
  return out.replace(scanner.place(), 1, added + "\n}");
}

Json parse_json(std::string_view text, const std::string& where) {
  return parse(text, where, [](const std::string&) { return true; });
}

Json parse_json_without(std::string_view skip, std::string_view text, const std::string& where) {
  return parse(text, where, [skip](const std::string& key) { return key != skip; });
}

Json parse_json_only(std::span<const std::string_view> keep, std::string_view text,
                     const std::string& where) {
  return parse(text, where, [keep](const std::string& key) { return std::ranges::count(keep, key) > 0; });
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
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
