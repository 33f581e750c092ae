#include "moerge/merge/tokenizer_edit.h"

#include <algorithm>
#include <set>
#include <unordered_set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/model/gguf_tokenizer.h"
#include "moerge/model/sentencepiece_tokenizer.h"
#include "moerge/model/tokenizer_json.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kSettings = "tokenizer_config.json";
constexpr const char* kAdded = "added_tokens.json";
constexpr const char* kDecoder = "added_tokens_decoder";
constexpr int64_t kMaxSettings = 16 << 20;
constexpr size_t kShown = 80;  // bytes of a token in a message

Json flags_json(const Token& token) {
  return {{"content", token.text},  {"single_word", token.single_word}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip}, {"normalized", token.normalized},   {"special", token.special}};
}

// The two halves of a merge, "a b" or ["a", "b"].
std::optional<std::pair<std::string, std::string>> halves(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  if (!merge.is_string()) return {};
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos) return {};
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

bool is_beyond(const Json& id, int64_t rows) { return id.is_number_integer() && id.get<int64_t>() >= rows; }

void drop_beyond(Json& list, int64_t rows) {
  if (!list.is_array()) return;
  Json kept = Json::array();
  for (Json& token : list)
    if (!is_beyond(member(token, "id"), rows)) kept.push_back(std::move(token));
  list = std::move(kept);
}

// Objects whose values, or whose keys, are ids.
Json values_below(const Json& ids, int64_t rows) {
  Json::object_t out;  // Json::push_back() would look through all keys for every new one
  for (const auto& [text, id] : ids.items())
    if (!is_beyond(id, rows)) out.push_back({text, id});
  return out;
}

Json keys_below(const Json& tokens, int64_t rows) {
  Json::object_t out;
  for (const auto& [id, token] : tokens.items())
    if (id.size() < 18 && std::atoll(id.c_str()) < rows) out.push_back({id, token});
  return out;
}

void cut_model(Json& model, int64_t rows, const std::string& where) {
  const std::string type = token_text(member(model, "type"));
  if (member(model, "vocab").is_array()) {
    Json& vocab = model["vocab"];
    if (is_beyond(member(model, "unk_id"), rows))
      fail(ErrorKind::unsupported, "{}: the unknown token is beyond the {} rows of the embeddings", where,
           rows);
    if (std::ssize(vocab) > rows) vocab.erase(vocab.begin() + rows, vocab.end());
    return;
  }
  if (!member(model, "vocab").is_object())
    fail(ErrorKind::unsupported,
         "{}: a tokenizer of type \"{}\" whose vocabulary cannot be cut to the {} rows "
         "of the embeddings",
         where, type.substr(0, kShown), rows);
  Json vocab = values_below(model["vocab"], rows);
  if (vocab.size() == model["vocab"].size()) return;
  model["vocab"] = std::move(vocab);
  if (!member(model, "merges").is_array()) return;
  std::unordered_set<std::string> known;
  for (const auto& [text, id] : model["vocab"].items()) known.insert(text);
  const std::string prefix = token_text(member(model, "continuing_subword_prefix"));
  Json kept = Json::array();
  for (Json& merge : model["merges"]) {
    const auto parts = halves(merge);
    if (!parts) fail(ErrorKind::input, "{}: a merge that is no pair of tokens", where);
    const std::string& right = parts->second;
    const std::string whole =
        parts->first + (right.starts_with(prefix) ? right.substr(prefix.size()) : right);
    if (known.contains(parts->first) && known.contains(right) && known.contains(whole))
      kept.push_back(std::move(merge));
  }
  model["merges"] = std::move(kept);
}

std::string read_text(const fs::path& file) {
  return fs::exists(file) ? read_file(file, kMaxSettings) : std::string();
}

}  // namespace

TokenizerEdit::TokenizerEdit(const Model& model)
    : config_(model.config.raw), tokenizer_(open(model)), tokens_(tokenizer_.tokens()) {}

// Fills what comes before tokenizer_.
Tokenizer TokenizerEdit::open(const Model& model) {
  if (model.gguf()) {
    where_ = model.path.string();
    GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), where_);
    json_ = std::move(made.tokenizer_json);
    settings_ = std::move(made.tokenizer_config_json);
    bos_ = made.bos_token;
    return Tokenizer(json_, bos_, where_);
  }
  files_ = read_tokenizer_files(model.path);
  settings_ = read_text(model.path / kSettings);
  const bool only_pieces = files_.tokenizer.is_null();
  if (only_pieces && !files_.sentencepiece)
    fail(ErrorKind::input, "{}: neither tokenizer.json nor tokenizer.model in this folder",
         model.path.string());
  where_ = (model.path / (only_pieces ? "tokenizer.model" : kTokenizer)).string();
  json_ = only_pieces ? make_sentencepiece_tokenizer(files_, config_) : read_file(where_, kMaxTokenizerText);
  return load_hf_tokenizer(files_, config_).tokenizer;
}

void TokenizerEdit::reload() {
  Tokenizer tokenizer(json_, bos_, where_);
  tokenizer_ =
      is_gguf() ? std::move(tokenizer) : with_stated_tokens(files_, config_, std::move(tokenizer)).tokenizer;
  tokens_ = tokenizer_.tokens();
}

int64_t TokenizerEdit::cut(int64_t rows) {
  if (tokens_.empty() || tokens_.back().id < rows) return 0;
  const auto before = std::ssize(tokens_);
  Json document = parse_json(json_, where_);
  if (document.contains("added_tokens")) drop_beyond(document["added_tokens"], rows);
  if (!member(document, "model").is_object()) fail(ErrorKind::input, "{}: no \"model\" in it", where_);
  cut_model(document["model"], rows, where_);
  json_ = dump_tokenizer_json(document, -1, where_);
  if (!is_gguf()) {
    if (files_.tokenizer.contains("added_tokens")) drop_beyond(files_.tokenizer["added_tokens"], rows);
    files_.added_tokens = values_below(files_.added_tokens, rows);
    if (member(files_.tokenizer_config, kDecoder).is_object())
      files_.tokenizer_config[kDecoder] = keys_below(files_.tokenizer_config[kDecoder], rows);
  }
  reload();
  changed_ = cut_ = true;
  return before - std::ssize(tokens_);
}

void TokenizerEdit::add(const std::vector<Token>& added) {
  if (added.empty()) return;
  std::unordered_set<std::string> before;
  for (const Token& token : tokens_) before.insert(token.text);
  tokenizer_.add_tokens(added);
  tokens_ = tokenizer_.tokens();
  const auto same_id = [&](size_t i, size_t j) {
    return j < tokens_.size() && tokens_[i].id == tokens_[j].id;
  };
  for (size_t i = 0; i < tokens_.size(); i++)
    if ((same_id(i, i - 1) || same_id(i, i + 1)) && !before.contains(tokens_[i].text))
      fail(ErrorKind::unsupported,
           "{}: its token ids have gaps, so that the next id for a new token, {} for \"{}\", is taken: take "
           "another model as the base, or \"tokenizer_source: base\"",
           where_, tokens_[i].id, tokens_[i].text.substr(0, kShown));
  changed_ = true;
}

std::string TokenizerEdit::make_tokenizer_json() const {
  Json added = Json::array();
  for (const Token& token : tokens_) {
    if (!token.added) continue;
    Json entry = {{"id", token.id}};
    entry.update(flags_json(token));
    added.push_back(std::move(entry));
  }
  return set_json_member(json_, "added_tokens", added, where_);
}

TokenizerEdit::Files TokenizerEdit::files() const {
  Files out;
  if (!changed_) return out;
  std::string json = make_tokenizer_json();
  if (std::ssize(json) > kMaxTokenizerText)
    fail(ErrorKind::unsupported, "{}: the merged tokenizer.json would have {} bytes", where_, json.size());
  if (Tokenizer(json, bos_, where_).tokens() != tokens_)
    fail(ErrorKind::unsupported,
         "{}: tokens cannot be added to this vocabulary: the file would be read with other ids", where_);
  out.changed.emplace_back(kTokenizer, std::move(json));

  Json::object_t decoder, beyond;
  const int64_t own = tokenizer_.model_size();
  for (const Token& token : tokens_) {
    if (!token.added) continue;
    decoder.push_back({std::to_string(token.id), flags_json(token)});
    if (token.id >= own) beyond.push_back({token.text, token.id});
  }
  const std::string where = is_gguf() ? where_ : (files_.folder / kSettings).string();
  if (is_gguf()) {
    out.changed.emplace_back(kSettings, settings_);
    return out;
  }
  if (member(files_.tokenizer_config, kDecoder).is_object())
    out.changed.emplace_back(kSettings, set_json_member(settings_, kDecoder, decoder, where));
  if (!read_text(files_.folder / kAdded).empty())
    out.changed.emplace_back(kAdded, dump_tokenizer_json(beyond, 2, where));
  if (cut_) out.dropped = {"tokenizer.model", "vocab.json", "merges.txt"};
  return out;
}

}  // namespace moerge
