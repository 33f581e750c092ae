#include "moerge/model/hf_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/model/sentencepiece_tokenizer.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTokenizerFile = 256 << 20;
constexpr int64_t kMaxConfigFile = 16 << 20;

// The roles that transformers knows by name, in its order.
constexpr std::string_view kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

// What a tokenizer class of transformers 5 sets for a role that tokenizer_config.json does not mention.
struct ClassDefault {
  std::string_view tokenizer_class, role, text;
};
constexpr ClassDefault kClassDefaults[] = {
    {"LlamaTokenizer", "bos_token", "<s>"},           {"LlamaTokenizer", "eos_token", "</s>"},
    {"LlamaTokenizer", "unk_token", "<unk>"},         {"Qwen2Tokenizer", "eos_token", "<|endoftext|>"},
    {"Qwen2Tokenizer", "unk_token", "<|endoftext|>"}, {"Qwen2Tokenizer", "pad_token", "<|endoftext|>"},
    {"GPT2Tokenizer", "bos_token", "<|endoftext|>"},  {"GPT2Tokenizer", "eos_token", "<|endoftext|>"},
    {"GPT2Tokenizer", "unk_token", "<|endoftext|>"},
};

Json read_object(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = read_json(file, kMaxConfigFile);
  if (!json.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", file.string());
  return json;
}

bool only_pieces(const TokenizerFiles& files) { return files.tokenizer.is_null() && files.sentencepiece; }

// The class that AutoTokenizer picks, without "Fast"; empty where it is one without defaults.
std::string tokenizer_class(const TokenizerFiles& files, const Json& config) {
  if (only_pieces(files)) return "LlamaTokenizer";
  std::string stated = token_text(member(files.tokenizer_config, "tokenizer_class"));
  if (stated.empty()) stated = token_text(member(config, "tokenizer_class"));
  if (stated.ends_with("Fast")) stated.resize(stated.size() - 4);
  const std::string model_type = token_text(member(config, "model_type"));
  if (stated == "LlamaTokenizer" && files.names_byte_level && model_type != "qwen2") return {};
  if (model_type == "qwen2" || (stated.empty() && model_type.starts_with("qwen"))) return "Qwen2Tokenizer";
  if (model_type == "mistral" || model_type == "mixtral") return {};
  return stated;
}

// A token in the notation of transformers' AddedToken. `special` is what it is when nothing says so.
Token read_token(const Json& json, bool special, const std::string& where) {
  Token token{.text = token_text(json), .added = true, .special = special};
  if (json.is_object()) {
    token.special = json_bool(json, "special", where).value_or(special);
    token.single_word = json_bool(json, "single_word", where).value_or(false);
    token.lstrip = json_bool(json, "lstrip", where).value_or(false);
    token.rstrip = json_bool(json, "rstrip", where).value_or(false);
  }
  const auto normalized = json.is_object() ? json_bool(json, "normalized", where) : std::nullopt;
  token.normalized = normalized.value_or(!token.special);
  return token;
}

constexpr const char* kExtra = "extra_special_tokens";
constexpr const char* kOlderExtra = "additional_special_tokens";

class Additions {
 public:
  Additions(const TokenizerFiles& files, const Json& config) : settings_(files.tokenizer_config) {
    where_ = (files.folder / "tokenizer_config.json").string();
    if (settings_.contains(kOlderExtra) && member(settings_, kExtra).empty()) {
      settings_[kExtra] = Json(settings_[kOlderExtra]);
      settings_.erase(kOlderExtra);
    }
    for (Token& token : decoder_tokens(files)) by_id_.insert_or_assign(token.id, token);
    if (!member(settings_, "added_tokens_decoder").is_object()) read_older_files(files);
    const std::string class_name = tokenizer_class(files, config);
    read_roles(class_name);
    marks_extra_ = class_name == "Qwen2Tokenizer";
    const Json& extra = member(settings_, settings_.contains(kExtra) ? kExtra : kOlderExtra);
    for (const Json& value : extra) add_special(value, extra.is_object() ? named_ : extra_);
  }

  /// By the ids that the files give, which need not be those that the tokenizer gives them.
  std::vector<Token> tokens() const {
    std::vector<Token> out;
    for (const auto& [id, token] : by_id_) out.push_back(token);
    return out;
  }
  /// Those with a role, then those that are just called special.
  const std::vector<Token>& named() const { return named_; }
  const std::vector<Token>& extra() const { return extra_; }
  /// Whether extra() become special where tokenizer.json says otherwise: one class does it.
  bool marks_extra() const { return marks_extra_; }
  /// In named(), but only because of a class's default.
  bool is_default(const std::string& text) const { return defaults_.contains(text); }

 private:
  // Folders from before "added_tokens_decoder": special_tokens_map.json, whose word then counts,
  // added_tokens.json, and the tokens of tokenizer.json once more, special where they have a role.
  void read_older_files(const TokenizerFiles& files) {
    for (const auto& [key, value] : files.special_tokens_map.items()) {
      if (key == kExtra && value.is_array() && member(settings_, kExtra).is_array())
        settings_[kExtra].insert(settings_[kExtra].end(), value.begin(), value.end());
      else
        settings_[key] = value;
    }
    std::set<std::string> special;
    for (const std::string_view role : kRoles) special.insert(token_text(member(settings_, role)));
    for (const Json& value : member(settings_, kExtra)) special.insert(token_text(value));
    const std::string where = (files.folder / "added_tokens.json").string();
    for (const auto& [text, value] : files.added_tokens.items()) {
      if (!value.is_number_integer())
        fail(ErrorKind::input, "{}: \"{}\" has no id", where, text.substr(0, 80));
      const int64_t id = value.get<int64_t>();
      const bool is_special = special.contains(text);
      by_id_.insert_or_assign(
          id, Token{.id = id, .text = text, .added = true, .special = is_special, .normalized = !is_special});
    }
    for (const Json& value : member(files.tokenizer, "added_tokens")) {
      Token token = read_token(value, false, (files.folder / "tokenizer.json").string());
      token.id = json_int(value, "id", (files.folder / "tokenizer.json").string()).value_or(0);
      if (!token.text.empty()) by_id_.insert_or_assign(token.id, std::move(token));
    }
  }

  void add_special(const Json& value, std::vector<Token>& to) {
    Token token = read_token(value, true, where_);
    token.special = true;
    if (!token.text.empty()) to.push_back(std::move(token));
  }

  void read_roles(const std::string& tokenizer_class) {
    for (const std::string_view role : kRoles) {
      if (settings_.contains(role)) {
        add_special(member(settings_, role), named_);
        continue;
      }
      for (const ClassDefault& row : kClassDefaults)
        if (row.tokenizer_class == tokenizer_class && row.role == role) {
          add_special(Json(row.text), named_);
          defaults_.insert(std::string(row.text));
        }
    }
    for (const auto& [key, value] : settings_.items())
      if (value.is_string() && key.ends_with("_token") && !std::ranges::count(kRoles, key))
        add_special(value, named_);
    for (const Token& token : named_)
      if (!is_default_only(token.text)) defaults_.erase(token.text);
  }

  // The same text may be stated for another role.
  bool is_default_only(const std::string& text) const {
    return std::ranges::none_of(settings_.items(), [&](const auto& item) {
      return std::string_view(item.key()).ends_with("_token") && token_text(item.value()) == text;
    });
  }

  Json settings_;
  std::string where_;
  std::map<int64_t, Token> by_id_;
  std::vector<Token> named_, extra_;
  std::set<std::string> defaults_;
  bool marks_extra_ = false;
};

}  // namespace

StatedToken stated_token(const Json& tokenizer_config, const Json& special_tokens_map, const char* key,
                         const fs::path& folder) {
  const bool older = !tokenizer_config.contains("added_tokens_decoder");
  const bool mapped = older && special_tokens_map.contains(key);
  const Json& settings = mapped ? special_tokens_map : tokenizer_config;
  if (!settings.contains(key)) return {};
  const Json& value = settings[key];
  const std::string where =
      (folder / (mapped ? "special_tokens_map.json" : "tokenizer_config.json")).string();
  return {true, value.is_object() ? json_string(value, "content", where) : json_string(settings, key, where)};
}

const Json& member(const Json& object, std::string_view key) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

std::string token_text(const Json& token) {
  const Json& text = token.is_object() ? member(token, "content") : token;
  return text.is_string() ? text.get<std::string>() : std::string();
}

std::vector<Token> decoder_tokens(const TokenizerFiles& files) {
  std::vector<Token> out;
  const std::string where = (files.folder / "tokenizer_config.json").string();
  const Json& decoder = member(files.tokenizer_config, "added_tokens_decoder");
  if (!decoder.is_object()) return out;
  for (const auto& [key, value] : decoder.items()) {
    int64_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size())
      fail(ErrorKind::input, "{}: \"added_tokens_decoder\" has \"{}\" where a token's id should be", where,
           key.substr(0, 80));
    Token token = read_token(value, false, where);
    if (token.text.empty())
      fail(ErrorKind::input, "{}: token {} of \"added_tokens_decoder\" has no \"content\"", where, id);
    token.id = id;
    out.push_back(std::move(token));
  }
  return out;
}

TokenizerFiles read_tokenizer_files(const fs::path& folder) {
  TokenizerFiles files;
  files.folder = folder;
  if (const fs::path file = folder / "tokenizer.json"; fs::exists(file)) {
    const std::string text = read_file(file, kMaxTokenizerFile);
    files.tokenizer = parse_json_without("vocab", text, file.string());
    if (!files.tokenizer.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", file.string());
    files.names_byte_level = text.find("\"ByteLevel\"") != std::string::npos;
  }
  files.tokenizer_config = read_object(folder / "tokenizer_config.json");
  files.special_tokens_map = read_object(folder / "special_tokens_map.json");
  files.added_tokens = read_object(folder / "added_tokens.json");
  files.sentencepiece = fs::exists(folder / "tokenizer.model");
  return files;
}

HfTokenizer load_hf_tokenizer(const TokenizerFiles& files, const Json& config) {
  return with_stated_tokens(
      files, config,
      only_pieces(files) ? Tokenizer(make_sentencepiece_tokenizer(files, config), sentencepiece_bos(files),
                                     (files.folder / "tokenizer.model").string())
                         : Tokenizer(files.folder));
}

HfTokenizer with_stated_tokens(const TokenizerFiles& files, const Json& config, Tokenizer tokenizer) {
  HfTokenizer out{.tokenizer = std::move(tokenizer), .special = {}};
  const Additions additions(files, config);
  std::set<std::string> known, added;
  for (Token& token : out.tokenizer.tokens()) {
    if (token.added) added.insert(token.text);
    known.insert(std::move(token.text));
  }
  std::set<std::string_view> named;
  for (const Token& token : additions.named()) named.insert(token.text);
  std::vector<Token> to_add = additions.tokens();
  for (Token& token : to_add) {
    added.insert(token.text);
    known.insert(token.text);
    token.special |= named.contains(token.text);
  }
  const int64_t rows =
      json_int(config, "vocab_size", (files.folder / "config.json").string()).value_or(INT64_MAX);
  const auto add = [&](const Token& token) {
    // A default of the class that the model has no row for is none of its tokens.
    if (!known.contains(token.text) && additions.is_default(token.text) && std::ssize(known) >= rows) return;
    if (added.insert(token.text).second) to_add.push_back(token);
    known.insert(token.text);
    out.special.push_back(token.text);
  };
  for (const Token& token : additions.named()) add(token);
  for (const Token& token : additions.extra()) add(token);
  if (additions.marks_extra())
    to_add.insert(to_add.end(), additions.extra().begin(), additions.extra().end());
  out.tokenizer.add_tokens(to_add);
  return out;
}

}  // namespace moerge
