#include "moerge/merge/vocabulary.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/suggest.h"
#include "moerge/merge/tokenizer_edit.h"
#include "moerge/model/tokenizer_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr size_t kShown = 80;  // bytes of a token in a message
constexpr size_t kFewTokens = 5;
// Members of config.json and generation_config.json that name tokens.
constexpr const char* kTokenIds[] = {"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
                                     "sep_token_id", "cls_token_id", "mask_token_id"};

std::string shown(const std::string& text) { return text.substr(0, kShown); }

// A model's tokens that have a row.
using Ids = std::unordered_map<std::string, int32_t>;

struct OwnTokens {
  std::vector<Token> tokens;  // all, by ascending id
  Ids ids;                    // of those that have a row
};

class Merger {
 public:
  Merger(const TokenizerSettings& settings, const std::string& base_reference,
         const std::vector<VocabularyModel>& models)
      : settings_(settings) {
    out_.models = models;
    if (models.empty()) fail(ErrorKind::config, "{}: no models to take tokens from", settings.place);
    for (const VocabularyModel& model : models)
      if (model.rows < 1 || model.rows > kMaxDimension)
        fail(ErrorKind::input, "{}: embeddings of {} rows", model.reference, model.rows);
    if (!base_reference.empty()) {
      out_.base = find(base_reference);
      if (!out_.base) fail(ErrorKind::config, "{}: no model \"{}\"", settings.place, base_reference);
    }
    first_ = out_.base.value_or(0);
  }

  MergedVocabulary merge() {
    check_names();
    read_tokens();
    make_tokenizer();
    number(edit_->tokens());
    assign();
    if (!problems_.empty()) fail(ErrorKind::config, "{}", fmt::join(problems_, "\n"));
    warn_of_strays();
    check_edges(edit_->tokenizer());
    out_.tokenizer_model = out_.models[source_].model;
    TokenizerEdit::Files files = edit_->files();
    out_.changed_files = std::move(files.changed);
    out_.dropped_files = std::move(files.dropped);
    change_config();
    return std::move(out_);
  }

 private:
  void problem(const Place& place, std::string message) {
    problems_.push_back(fmt::format("{}: {}", place, message));
  }

  std::optional<size_t> find(const std::string& reference) const {
    const auto found = std::ranges::find(out_.models, reference, &VocabularyModel::reference);
    if (found == out_.models.end()) return {};
    return static_cast<size_t>(found - out_.models.begin());
  }

  void check_name(const std::string& name, const Place& place) {
    if (name.empty() || find(name)) return;
    std::vector<std::string_view> names;
    for (const VocabularyModel& model : out_.models) names.push_back(model.reference);
    const std::string close = nearest(name, names);
    problem(place, fmt::format("\"{}\" is none of the models{}", name,
                               close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close)));
  }

  void check_names() {
    check_name(settings_.model, settings_.place);
    for (const auto& [text, token] : settings_.tokens) check_name(token.model, token.place);
    if (!problems_.empty()) fail(ErrorKind::config, "{}", fmt::join(problems_, "\n"));
    source_ = settings_.source == TokenizerSettings::Source::model ? *find(settings_.model) : first_;
  }

  static bool has_files(const VocabularyModel& model) { return has_tokenizer(*model.model); }

  // Every model's own tokens. What lies beyond its embeddings is none of them.
  void read_tokens() {
    own_.resize(out_.models.size());
    std::vector<size_t> bare;
    for (size_t i = 0; i < out_.models.size(); i++) {
      const VocabularyModel& model = out_.models[i];
      if (!has_files(model)) {
        bare.push_back(i);
        continue;
      }
      TokenizerEdit edit(*model.model);
      own_[i].tokens = edit.tokens();
      if (i == source_) edit_ = std::move(edit);
      keep_rows(i);
    }
    if (!edit_)
      fail(ErrorKind::input,
           "{}: the result's tokenizer is to be made from that of this model, and {} has none",
           out_.models[source_].reference, out_.models[source_].model->path.string());
    const size_t from = has_files(out_.models[first_]) ? first_ : source_;
    for (const size_t i : bare) {
      out_.warnings.push_back(fmt::format("{}: no tokenizer; it is taken to have the tokens of {}",
                                          out_.models[i].reference, out_.models[from].reference));
      own_[i].tokens = own_[from].tokens;
      keep_rows(i);
    }
  }

  void keep_rows(size_t i) {
    std::vector<std::string> beyond;
    own_[i].ids.reserve(own_[i].tokens.size());
    for (const Token& token : own_[i].tokens) {
      if (token.id < out_.models[i].rows)
        own_[i].ids.insert_or_assign(token.text, static_cast<int32_t>(token.id));
      else
        beyond.push_back(token.text);
    }
    if (beyond.empty()) return;
    out_.warnings.push_back(fmt::format("{}: {} of its tokens have no row in its embeddings of {}: {}",
                                        out_.models[i].reference, beyond.size(), out_.models[i].rows,
                                        some(beyond)));
  }

  static std::string some(std::vector<std::string> texts) {
    const size_t all = texts.size();
    texts.resize(std::min(all, kFewTokens));
    for (std::string& text : texts) text = "\"" + shown(text) + "\"";
    return fmt::format("{}{}", fmt::join(texts, ", "), all > kFewTokens ? ", ..." : "");
  }

  void make_tokenizer() {
    TokenizerEdit& edit = *edit_;
    edit.cut(out_.models[source_].rows);
    if (settings_.source == TokenizerSettings::Source::union_) edit.add(others(edit.tokens()));
    std::unordered_set<std::string> known;
    for (const Token& token : edit.tokens()) known.insert(token.text);
    std::vector<Token> more;
    for (const auto& [text, token] : settings_.tokens)
      if (known.insert(text).second) more.push_back({.text = text, .added = true, .normalized = true});
    edit.add(more);
  }

  // What a union adds to the first model's tokens: plain tokens of the others, model by model, which become
  // added tokens of the result; then those that are added tokens already, each as the first model defines it
  // that has it as such.
  std::vector<Token> others(const std::vector<Token>& first) {
    std::vector<size_t> order = {first_};
    for (size_t i = 0; i < out_.models.size(); i++)
      if (i != first_ && out_.models[i].merged) order.push_back(i);
    std::unordered_map<std::string, Token> added, known;
    for (const Token& token : first) known.emplace(token.text, token);
    std::vector<Token> plain, special;
    std::set<std::string> differing;
    for (const size_t i : order)
      for (const Token& token : own_[i].tokens) {
        if (!token.added || token.id >= out_.models[i].rows) continue;
        const auto [found, is_new] = added.emplace(token.text, token);
        const auto before = known.find(token.text);
        if (is_new) {
          if (before == known.end() || !before->second.added) special.push_back(token);
        } else if (!same_flags(found->second, token)) {
          differing.insert(token.text);
        }
      }
    for (const size_t i : order)
      for (const Token& token : own_[i].tokens) {
        if (token.added || token.id >= out_.models[i].rows || added.contains(token.text)) continue;
        if (known.emplace(token.text, token).second)
          plain.push_back({.text = token.text, .added = true, .normalized = true});
      }
    if (!differing.empty())
      out_.warnings.push_back(
          fmt::format("models define added tokens in different ways; as the first has it: {}",
                      some({differing.begin(), differing.end()})));
    plain.insert(plain.end(), special.begin(), special.end());
    return plain;
  }

  static bool same_flags(const Token& a, Token b) {
    b.id = a.id;
    return a == b;
  }

  void number(const std::vector<Token>& tokens) {
    if (tokens.empty()) fail(ErrorKind::input, "{}: no tokens", out_.models[source_].reference);
    out_.tokens = tokens.back().id + 1;
    if (out_.tokens > kMaxDimension)
      fail(ErrorKind::input, "{}: a token has the id {}", out_.models[source_].reference, tokens.back().id);
    const int64_t multiple = settings_.pad_to_multiple_of.value_or(1);
    out_.rows = (out_.tokens + multiple - 1) / multiple * multiple;
    const auto size = static_cast<size_t>(out_.tokens);
    out_.used.assign(size, false);
    auto texts = std::make_shared<std::vector<std::string>>(size);
    for (const Token& token : tokens) {
      out_.used[static_cast<size_t>(token.id)] = true;
      (*texts)[static_cast<size_t>(token.id)] = token.text;
      ids_.emplace(token.text, token.id);
    }
    out_.texts = std::move(texts);
    for (const OwnTokens& own : own_) {
      std::vector<int32_t> rows(size, -1);
      for (const Token& token : tokens)
        if (const auto row = own.ids.find(token.text); row != own.ids.end())
          rows[static_cast<size_t>(token.id)] = row->second;
      const auto same =
          std::ranges::find_if(out_.own_rows, [&](const auto& other) { return *other == rows; });
      out_.own_rows.push_back(same != out_.own_rows.end()
                                  ? *same
                                  : std::make_shared<const std::vector<int32_t>>(std::move(rows)));
    }
  }

  void assign() {
    for (const auto& [text, token] : settings_.tokens) {
      if (token.kind == TokenSource::Kind::automatic) continue;
      const auto id = ids_.find(text);
      if (id == ids_.end()) {
        problem(token.place, fmt::format("the tokenizer of {} cannot take up \"{}\"",
                                         out_.models[source_].reference, shown(text)));
        continue;
      }
      AssignedRow& assigned = out_.assigned[id->second];
      assigned.force = token.force;
      if (token.kind != TokenSource::Kind::zero) assigned.row = row_of(text, token);
    }
  }

  std::optional<TokenRow> row_of(const std::string& text, const TokenSource& token) {
    const size_t model = *find(token.model);
    const int64_t rows = out_.models[model].rows;
    int64_t row = token.token_id.value_or(-1);
    if (!token.token_id) {
      const std::string& wanted = token.kind == TokenSource::Kind::model ? text : *token.token;
      const auto found = own_[model].ids.find(wanted);
      if (found == own_[model].ids.end()) {
        problem(token.place, fmt::format("\"{}\" has no token \"{}\"{}", token.model, shown(wanted),
                                         beyond_or_near(model, wanted)));
        return {};
      }
      row = found->second;
    }
    if (row >= rows) {
      problem(token.place,
              fmt::format("token_id {} of \"{}\": its embeddings have {} rows", row, token.model, rows));
      return {};
    }
    return TokenRow{static_cast<int32_t>(model), static_cast<int32_t>(row)};
  }

  std::string beyond_or_near(size_t model, const std::string& wanted) const {
    const std::vector<Token>& tokens = own_[model].tokens;
    const auto beyond = std::ranges::find(tokens, wanted, &Token::text);
    if (beyond != tokens.end())
      return fmt::format(" with a row: its id is {}, the embeddings have {} rows", beyond->id,
                         out_.models[model].rows);
    std::vector<std::string_view> texts;
    for (const Token& token : tokens)
      if (token.added) texts.push_back(token.text);
    const std::string close = nearest(wanted, texts);
    return close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", shown(close));
  }

  // Tokens of the result that no merged model has a row for, and about which nothing is said.
  void warn_of_strays() {
    std::vector<std::string> strays;
    for (size_t id = 0; id < out_.used.size(); id++) {
      if (!out_.used[id] || out_.assigned.contains(static_cast<int64_t>(id))) continue;
      bool held = false;
      for (size_t i = 0; i < out_.models.size(); i++)
        held |= out_.models[i].merged && (*out_.own_rows[i])[id] >= 0;
      if (!held) strays.push_back((*out_.texts)[id]);
    }
    if (!strays.empty())
      out_.warnings.push_back(
          fmt::format("no merged model has a row for {} tokens, whose rows will be zeros: {}", strays.size(),
                      some(strays)));
  }

  // What the tokenizer puts around a text has ids of its own, which nothing above has looked at.
  void check_edges(const Tokenizer& tokenizer) const {
    for (const int32_t id : tokenizer.encode("", true))
      if (id >= out_.tokens)
        fail(ErrorKind::unsupported,
             "{}: its tokenizer puts token {} around every text, and its embeddings have {} rows",
             out_.models[source_].reference, id, out_.models[source_].rows);
  }

  void change_config() {
    const Json& base = out_.models[first_].model->config.raw;
    const Json& source = out_.models[source_].model->config.raw;
    out_.config_changes["vocab_size"] = out_.rows;
    if (source_ == first_ || !source.is_object() || !base.is_object()) return;
    for (const char* key : kTokenIds) {
      const Json& there = member(source, key);
      if (there != member(base, key)) out_.config_changes[key] = there;
    }
  }

  const TokenizerSettings& settings_;
  MergedVocabulary out_;
  size_t first_ = 0, source_ = 0;
  std::vector<OwnTokens> own_;
  std::optional<TokenizerEdit> edit_;             // of the model whose tokenizer the result's starts from
  std::unordered_map<std::string, int64_t> ids_;  // of the result
  std::vector<std::string> problems_;
};

}  // namespace

std::string MergedVocabulary::text_of(int64_t id) const {
  return id >= 0 && id < std::ssize(*texts) ? shown((*texts)[static_cast<size_t>(id)]) : std::string();
}

MergedVocabulary merge_vocabularies(const TokenizerSettings& settings, const std::string& base_reference,
                                    const std::vector<VocabularyModel>& models) {
  return Merger(settings, base_reference, models).merge();
}

void write_merged_tokenizer(const MergedVocabulary& vocabulary, const fs::path& folder,
                            const std::string* chat_template) {
  write_tokenizer_files(*vocabulary.tokenizer_model, folder, chat_template);
  for (const std::string& name : vocabulary.dropped_files) fs::remove(folder / name);
  for (const auto& [name, content] : vocabulary.changed_files) {
    const bool with_template = chat_template && name == "tokenizer_config.json";
    const std::string where = (folder / name).string();
    if (fs::exists(folder / name)) fs::remove(folder / name);
    write_file(folder / name,
               with_template ? set_json_member(content, "chat_template", *chat_template, where) : content);
  }
}

}  // namespace moerge
