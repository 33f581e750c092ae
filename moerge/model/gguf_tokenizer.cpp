#include "moerge/model/gguf_tokenizer.h"

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/model/gguf_pre_tokenizer.h"
#include "moerge/model/tokenizer_json.h"

namespace moerge {
namespace {

constexpr size_t kMaxShown = 80;  // of a text in a message

std::string key(std::string_view name) { return fmt::format("tokenizer.ggml.{}", name); }

// A list with an entry for each token, or null when there is none.
template <typename T>
const std::vector<T>* list_of(const GgufMetadata& metadata, const char* name, size_t tokens,
                              const std::string& where) {
  if (!metadata.find(key(name))) return nullptr;
  const std::vector<T>* list = metadata.array<T>(key(name));
  if (!list || list->size() < tokens)
    fail(ErrorKind::input, "{}: \"{}\" should be a list of {} numbers, one for each token", where, key(name),
         tokens);
  return list;
}

// What the file says about tokens, checked.
struct Vocabulary {
  std::string where;
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<bool> pad;      // only fills up the embeddings
  std::vector<float> scores;  // empty where there are none

  Vocabulary(const GgufMetadata& metadata, const std::string& where_) : where(where_) {
    const auto* texts = metadata.array<std::string>(key("tokens"));
    if (!texts || texts->empty())
      fail(ErrorKind::input, "{}: its vocabulary \"{}\" is missing", where, key("tokens"));
    tokens = *texts;
    const auto* kinds = list_of<int32_t>(metadata, "token_type", tokens.size(), where);
    kinds ? types.assign(kinds->begin(), kinds->end()) : types.assign(tokens.size(), kNormal);
    if (const auto* numbers = list_of<float>(metadata, "scores", tokens.size(), where)) scores = *numbers;
    check();
  }

  /// The token of a metadata key, if there is one.
  std::optional<size_t> find(const GgufMetadata& metadata, std::string_view name,
                             std::optional<size_t> fallback = {}) const {
    const std::optional<int64_t> id = metadata.integer(key(name));
    if (id && *id >= 0 && *id < std::ssize(tokens)) return static_cast<size_t>(*id);
    return fallback && *fallback < tokens.size() ? fallback : std::nullopt;
  }

 private:
  void check() {
    std::set<std::string_view> seen;
    for (size_t id = 0; id < tokens.size(); id++) {
      const std::string& token = tokens[id];
      pad.push_back(token.empty() || (types[id] == kUnused && token == fmt::format("[PAD{}]", id)));
      if (pad.back()) continue;
      if (!seen.insert(token).second)
        fail(ErrorKind::input, "{}: damaged vocabulary: token {} (\"{}\") is there twice", where, id,
             token.substr(0, kMaxShown));
    }
  }
};

Json vocab_json(const Vocabulary& vocabulary) {
  Json::object_t json;  // in order and without a search for each
  json.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); id++)
    if (!vocabulary.pad[id]) json.push_back({vocabulary.tokens[id], id});
  return json;
}

// Found in the raw text before anything else; special ones are not part of what people read.
Json added_tokens_json(const Vocabulary& vocabulary) {
  Json json = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); id++) {
    const int32_t type = vocabulary.types[id];
    if (vocabulary.pad[id] || (type != kControl && type != kUserDefined && type != kUnknown)) continue;
    json.push_back(added_token_json(id, vocabulary.tokens[id], type != kUserDefined));
  }
  return json;
}

// Special tokens and which of them every text gets.
struct Specials {
  std::optional<size_t> bos, eos, unknown, padding, separator, mask;
  bool add_bos, add_eos;
};

Json template_json(const Specials& specials, const Vocabulary& vocabulary) {
  const auto edge = [&](bool add, std::optional<size_t> id) {
    return add ? EdgeToken{vocabulary.tokens[*id], *id} : EdgeToken{};
  };
  const EdgeToken bos = edge(specials.add_bos, specials.bos), eos = edge(specials.add_eos, specials.eos);
  return edges_json(specials.add_bos ? &bos : nullptr, specials.add_eos ? &eos : nullptr);
}

// -------- "gpt2": bytes as letters, merges by rank

Json byte_level_document(const GgufMetadata& metadata, const Vocabulary& vocabulary, const Specials& specials,
                         const GgufPreTokenizer& pre) {
  const auto* merges = metadata.array<std::string>(key("merges"));
  if (!merges) fail(ErrorKind::input, "{}: its vocabulary has no \"{}\"", vocabulary.where, key("merges"));
  Json::array_t merges_json(merges->begin(), merges->end());
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  Json offsets = bytes;
  offsets["trim_offsets"] = false;

  Json out = tokenizer_document(added_tokens_json(vocabulary));
  out["normalizer"] = normalizer_json(pre);
  out["pre_tokenizer"] = pre_tokenizer_json(pre);
  out["post_processor"] = offsets;
  if (specials.add_bos || specials.add_eos)
    out["post_processor"] = {{"type", "Sequence"},
                             {"processors", {offsets, template_json(specials, vocabulary)}}};
  out["decoder"] = bytes;
  out["model"] = bpe_json(vocab_json(vocabulary), std::move(merges_json));
  out["model"]["ignore_merges"] = pre.ignore_merges;
  return out;
}

// -------- "llama": SentencePiece pieces, merges by score

Json sentencepiece_document(const GgufMetadata& metadata, const Vocabulary& vocabulary,
                            const Specials& specials) {
  ScoredPieces pieces = {.texts = vocabulary.tokens,
                         .scores = vocabulary.scores,
                         .absent = vocabulary.pad,
                         .whole = std::vector<bool>(vocabulary.tokens.size())};
  for (size_t id = 0; id < vocabulary.tokens.size(); id++)
    pieces.whole[id] = vocabulary.types[id] == kUserDefined || vocabulary.types[id] == kControl;
  Json::array_t merges = find_merges(pieces, MergeTies::by_id, vocabulary.where);

  Json out = tokenizer_document(added_tokens_json(vocabulary));
  set_piece_spaces(out, metadata.boolean(key("add_space_prefix")).value_or(true));
  if (specials.add_bos || specials.add_eos) out["post_processor"] = template_json(specials, vocabulary);
  out["model"] = bpe_json(vocab_json(vocabulary), std::move(merges));
  if (specials.unknown) out["model"]["unk_token"] = vocabulary.tokens[*specials.unknown];
  out["model"]["fuse_unk"] = true;
  out["model"]["byte_fallback"] = true;
  return out;
}

// -------- tokenizer_config.json

// One template, or the default one and others by name.
Json chat_template_json(const GgufMetadata& metadata) {
  const std::string* common = metadata.string("tokenizer.chat_template");
  const auto* names = metadata.array<std::string>("tokenizer.chat_templates");
  if (!names || names->empty()) return common ? Json(*common) : Json(nullptr);
  Json list = Json::array();
  if (common) list.push_back({{"name", "default"}, {"template", *common}});
  for (const std::string& name : *names)
    if (const std::string* text = metadata.string("tokenizer.chat_template." + name))
      list.push_back({{"name", name}, {"template", *text}});
  return list;
}

Json config_document(const GgufMetadata& metadata, const Vocabulary& vocabulary, const Specials& specials) {
  Json out = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  for (const auto& [name, id] :
       {std::pair("bos_token", specials.bos), std::pair("eos_token", specials.eos),
        std::pair("unk_token", specials.unknown), std::pair("pad_token", specials.padding),
        std::pair("sep_token", specials.separator), std::pair("mask_token", specials.mask)})
    if (id) out[name] = vocabulary.tokens[*id];
  out["add_bos_token"] = specials.add_bos;
  out["add_eos_token"] = specials.add_eos;
  const std::string* architecture = metadata.string("general.architecture");
  if (const auto length = architecture ? metadata.integer(*architecture + ".context_length") : std::nullopt)
    out["model_max_length"] = *length;
  if (Json chat = chat_template_json(metadata); !chat.is_null()) out["chat_template"] = std::move(chat);
  return out;
}

}  // namespace

bool has_gguf_tokenizer(const GgufMetadata& metadata) {
  const std::string* kind = metadata.string(key("model"));
  return kind && *kind != "none" && *kind != "no_vocab";
}

GgufTokenizer make_gguf_tokenizer(const GgufMetadata& metadata, const std::string& where) {
  if (!has_gguf_tokenizer(metadata)) fail(ErrorKind::input, "{}: there is no vocabulary in this file", where);
  const std::string kind = metadata.string(key("model"))->substr(0, kMaxShown);
  const bool pieces = kind == "llama";
  if (!pieces && kind != "gpt2")
    fail(ErrorKind::unsupported, "{}: its tokenizer is of kind \"{}\"; \"llama\" and \"gpt2\" are read",
         where, kind);
  const std::string* pre_name = metadata.string(key("pre"));
  const GgufPreTokenizer* pre = pre_name ? find_pre_tokenizer(*pre_name) : nullptr;
  if (!pieces && !pre)
    fail(ErrorKind::unsupported,
         "{}: its pre-tokenizer \"{}\" ({}) is not known; use the model's folder instead", where,
         pre_name ? pre_name->substr(0, kMaxShown) : "", key("pre"));

  const Vocabulary vocabulary(metadata, where);
  const auto usual = [&](size_t id) { return pieces ? std::optional(id) : std::nullopt; };  // llama.cpp's
  Specials specials = {.bos = vocabulary.find(metadata, "bos_token_id", usual(1)),
                       .eos = vocabulary.find(metadata, "eos_token_id", usual(2)),
                       .unknown = vocabulary.find(metadata, "unknown_token_id", usual(0)),
                       .padding = vocabulary.find(metadata, "padding_token_id"),
                       .separator = vocabulary.find(metadata, "seperator_token_id"),  // sic
                       .mask = vocabulary.find(metadata, "mask_token_id"),
                       .add_bos = metadata.boolean(key("add_bos_token")).value_or(pieces || pre->add_bos),
                       .add_eos = metadata.boolean(key("add_eos_token")).value_or(false)};
  specials.add_bos = specials.add_bos && specials.bos;
  specials.add_eos = specials.add_eos && specials.eos;
  const Json json = pieces ? sentencepiece_document(metadata, vocabulary, specials)
                           : byte_level_document(metadata, vocabulary, specials, *pre);
  GgufTokenizer out = {dump_tokenizer_json(json, 1, where),
                       dump_tokenizer_json(config_document(metadata, vocabulary, specials), 2, where),
                       {}};
  if (specials.bos) out.bos_token = vocabulary.tokens[*specials.bos];
  return out;
}

}  // namespace moerge
