#include "moerge/merge/tokenizer_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "moerge/base/suggest.h"
#include "moerge/model/yaml_values.h"

namespace moerge {
namespace {

constexpr std::array<std::string_view, 3> kTokenizerKeys = {"source", "tokens", "pad_to_multiple_of"};
constexpr std::array<std::string_view, 2> kTokenKeys = {"source", "force"};
constexpr std::array<std::string_view, 4> kSourceKeys = {"kind", "model", "token", "token_id"};
constexpr std::array<std::string_view, 2> kSources = {"union", "base"};
constexpr std::array<std::string_view, 2> kKinds = {"model_token", "zero"};
constexpr size_t kShown = 80;  // bytes of a token in a message

bool is_said(const YamlNode* node) { return node && node->kind != YamlNode::Kind::null; }

std::string did_you_mean(const std::string& word, std::span<const std::string_view> known) {
  const std::string close = nearest(word, known);
  return close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close);
}

class Reader {
 public:
  Reader(const std::string& file, YamlProblems& problems) : file_(file), problems_(problems) {}

  std::optional<TokenizerSettings> read(const YamlNode& root) {
    const YamlNode *source = root.find("tokenizer_source"), *tokenizer = root.find("tokenizer");
    if (is_said(source) && is_said(tokenizer))
      problems_.error(*tokenizer, "both \"tokenizer_source\" and \"tokenizer\": one of them is enough");
    TokenizerSettings settings;
    if (is_said(tokenizer)) {
      settings.place = place(*tokenizer);
      if (!problems_.expect_map(*tokenizer, "\"tokenizer\" (or \"tokenizer_source: base\")")) return {};
      read_tokenizer(*tokenizer, settings);
      return settings;
    }
    if (!is_said(source)) return {};
    settings.place = place(*source);
    read_source(root, "tokenizer_source", settings);
    return settings;
  }

 private:
  Place place(const YamlNode& node) const { return fmt::format("{}:{}:{}", file_, node.line, node.column); }

  void read_tokenizer(const YamlNode& map, TokenizerSettings& settings) {
    problems_.check_keys(map, kTokenizerKeys);
    if (is_said(map.find("source"))) read_source(map, "source", settings);
    if (const auto multiple = problems_.integer(map, "pad_to_multiple_of")) {
      if (*multiple < 1 || *multiple > kMaxVocabularyPadding)
        problems_.error(*map.find("pad_to_multiple_of"),
                        fmt::format("\"pad_to_multiple_of\" should be 1 to {}, found {}",
                                    kMaxVocabularyPadding, *multiple));
      else
        settings.pad_to_multiple_of = multiple;
    }
    const YamlNode* tokens = map.find("tokens");
    if (!is_said(tokens) || !problems_.expect_map(*tokens, "\"tokens\"")) return;
    for (const auto& [key, value] : tokens->entries) {
      if (key.scalar.empty())
        problems_.error(key, "a token of no letters");
      else
        settings.tokens.emplace_back(key.scalar, read_token(key, value));
    }
  }

  void read_source(const YamlNode& map, std::string_view key, TokenizerSettings& settings) {
    const auto source = read_model_reference(map, key, problems_);
    if (!source) return;
    if (*source == "union" || *source == "base") {
      settings.source =
          *source == "base" ? TokenizerSettings::Source::base : TokenizerSettings::Source::union_;
      return;
    }
    if (source->empty())
      problems_.error(*map.find(key),
                      fmt::format("\"{}\" should be \"union\", \"base\" or a model, found nothing", key));
    if (const std::string close = nearest(*source, kSources); !close.empty())
      problems_.warning(*map.find(key),
                        fmt::format("\"{}\" is taken for a model (did you mean \"{}\"?)", *source, close));
    settings.source = TokenizerSettings::Source::model;
    settings.model = *source;
  }

  TokenSource read_token(const YamlNode& key, const YamlNode& node) {
    TokenSource out;
    out.place = place(key);
    const std::string what = fmt::format("token \"{}\"", key.scalar.substr(0, kShown));
    if (node.kind == YamlNode::Kind::null) return out;
    if (!problems_.expect_map(node, what)) return out;
    problems_.check_keys(node, kTokenKeys);
    out.force = read_force(node);
    const YamlNode* source = node.find("source");
    if (is_said(source) && source->find("kind")) {
      read_kind(*source, out);
    } else if (const auto model = read_model_reference(node, "source", problems_)) {
      out.kind = TokenSource::Kind::model;
      out.model = *model;
      if (model->empty()) problems_.error(*source, fmt::format("{}: the \"source\" has no letters", what));
    }
    if (out.force && !is_said(source))
      problems_.error(node, fmt::format("{} has \"force\" and no \"source\": forced to what?", what));
    return out;
  }

  bool read_force(const YamlNode& map) {
    const auto text = problems_.text(map, "force");
    if (!text) return false;
    std::string lower = *text;
    std::ranges::transform(lower, lower.begin(),
                           [](unsigned char c) { return static_cast<char>(tolower(c)); });
    if (lower != "true" && lower != "false")
      problems_.error(*map.find("force"),
                      fmt::format("\"force\" should be true or false, found \"{}\"", *text));
    return lower == "true";
  }

  void read_kind(const YamlNode& map, TokenSource& out) {
    problems_.check_keys(map, kSourceKeys);
    const std::string kind = problems_.text(map, "kind").value_or("");
    if (kind == "zero") {
      out.kind = TokenSource::Kind::zero;
      for (const std::string_view key : {"model", "token", "token_id"})
        if (is_said(map.find(key)))
          problems_.error(*map.find(key), fmt::format("\"kind: zero\" has no \"{}\"", key));
      return;
    }
    if (kind != "model_token") {
      problems_.error(*map.find("kind"),
                      fmt::format("unknown \"kind\" \"{}\"{}; model_token and zero are possible", kind,
                                  did_you_mean(kind, kKinds)));
      return;
    }
    out.kind = TokenSource::Kind::model_token;
    out.model = read_model_reference(map, "model", problems_).value_or("");
    if (out.model.empty() &&
        (!is_said(map.find("model")) || map.find("model")->kind == YamlNode::Kind::scalar))
      problems_.error(map, "\"kind: model_token\" needs a \"model\"");
    out.token = problems_.text(map, "token");
    out.token_id = problems_.integer(map, "token_id");
    if (is_said(map.find("token")) == is_said(map.find("token_id")))
      problems_.error(map, "\"kind: model_token\" needs either \"token\", a text, or \"token_id\"");
    if (out.token_id && *out.token_id < 0)
      problems_.error(*map.find("token_id"),
                      fmt::format("\"token_id\" counts from 0, found {}", *out.token_id));
  }

  const std::string& file_;
  YamlProblems& problems_;
};

}  // namespace

std::vector<std::string> TokenizerSettings::models() const {
  std::vector<std::string> out;
  const auto add = [&](const std::string& name) {
    if (!name.empty() && std::ranges::find(out, name) == out.end()) out.push_back(name);
  };
  add(model);
  for (const auto& [text, token] : tokens) add(token.model);
  return out;
}

std::optional<TokenizerSettings> read_tokenizer_settings(const YamlNode& root, const std::string& file,
                                                         YamlProblems& problems) {
  return Reader(file, problems).read(root);
}

}  // namespace moerge
