#include "moerge/model/gguf_tokenizer.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/base/parallel.h"
#include "moerge/model/gguf_pre_tokenizer.h"

namespace moerge {
namespace {

// Longer than any token that is merged from letters; keeps the work of finding its halves small.
constexpr size_t kMaxPiece = 1024;
constexpr size_t kMaxShown = 80;               // of a text in a message
constexpr int64_t kMaxText = 256 << 20;        // of tokenizer.json
constexpr std::string_view kSpace = "\u2581";  // how SentencePiece writes it

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
    json.push_back({{"id", id},
                    {"content", vocabulary.tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", type != kUserDefined}});
  }
  return json;
}

// Special tokens and which of them every text gets.
struct Specials {
  std::optional<size_t> bos, eos, unknown, padding, separator, mask;
  bool add_bos, add_eos;
};

Json template_json(const Specials& specials, const Vocabulary& vocabulary) {
  const auto token = [&](size_t id, int sequence) -> Json {
    return {{"SpecialToken", {{"id", vocabulary.tokens[id]}, {"type_id", sequence}}}};
  };
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto add = [&](Json& list, const char* name, int sequence) {
    if (specials.add_bos) list.push_back(token(*specials.bos, sequence));
    list.push_back({{"Sequence", {{"id", name}, {"type_id", sequence}}}});
    if (specials.add_eos) list.push_back(token(*specials.eos, sequence));
  };
  add(single, "A", 0);
  add(pair, "A", 0);
  add(pair, "B", 1);
  for (const auto& [used, id] :
       {std::pair(specials.add_bos, specials.bos), std::pair(specials.add_eos, specials.eos)})
    if (used) {
      const std::string& text = vocabulary.tokens[*id];
      tokens[text] = {{"id", text}, {"ids", Json::array({*id})}, {"tokens", Json::array({text})}};
    }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

Json bpe_json(Json vocab, Json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

Json document(Json added_tokens) {
  return {{"version", "1.0"},          {"truncation", nullptr},
          {"padding", nullptr},        {"added_tokens", std::move(added_tokens)},
          {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
          {"post_processor", nullptr}, {"decoder", nullptr},
          {"model", nullptr}};
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

  Json out = document(added_tokens_json(vocabulary));
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

struct Merge {
  size_t piece, left, right;  // ids
  size_t left_letters, right_letters;
};

bool begins_letter(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; }

// Every way to make a piece of two others, the best piece first; of equal ones (a vocabulary without real
// scores has only such) the lower id, then the longer left half: the order of transformers'
// convert_slow_tokenizer.py.
std::vector<Merge> find_merges(const Vocabulary& vocabulary) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); id++)
    if (!vocabulary.pad[id]) ids.emplace(vocabulary.tokens[id], id);
  std::vector<Merge> merges;
  int64_t bytes = 0;
  for (size_t id = 0; id < vocabulary.tokens.size(); id++) {
    const std::string_view piece = vocabulary.tokens[id];
    if (vocabulary.pad[id] || vocabulary.types[id] == kUserDefined || vocabulary.types[id] == kControl)
      continue;
    if (piece.size() > kMaxPiece)
      fail(ErrorKind::input, "{}: damaged vocabulary: token {} has {} bytes", vocabulary.where, id,
           piece.size());
    check_interrupted();
    const auto letters = static_cast<size_t>(std::ranges::count_if(piece, begins_letter));
    size_t left_letters = 1;
    for (size_t at = 1; at < piece.size(); at++) {
      if (!begins_letter(piece[at])) continue;
      const auto left = ids.find(piece.substr(0, at)), right = ids.find(piece.substr(at));
      if (left != ids.end() && right != ids.end()) {
        merges.push_back({id, left->second, right->second, left_letters, letters - left_letters});
        if ((bytes += std::ssize(piece)) > kMaxText)
          fail(ErrorKind::input, "{}: damaged vocabulary: its merges take more than {} bytes",
               vocabulary.where, kMaxText);
      }
      left_letters++;
    }
  }
  const auto rank = [&](const Merge& m) {
    const float score = vocabulary.scores.empty() ? 0 : vocabulary.scores[m.piece];
    return std::tuple(-score, m.piece, -std::ssize(vocabulary.tokens[m.left]));
  };
  std::ranges::sort(merges, [&](const Merge& a, const Merge& b) { return rank(a) < rank(b); });
  return merges;
}

Json sentencepiece_document(const GgufMetadata& metadata, const Vocabulary& vocabulary,
                            const Specials& specials) {
  Json::array_t merges;
  for (const Merge& merge : find_merges(vocabulary))
    merges.push_back(vocabulary.tokens[merge.left] + " " + vocabulary.tokens[merge.right]);
  const bool add_space = metadata.boolean(key("add_space_prefix")).value_or(true);
  Json normalizers = Json::array(), decoders = Json::array();
  if (add_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (add_space) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});

  Json out = document(added_tokens_json(vocabulary));
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  if (specials.add_bos || specials.add_eos) out["post_processor"] = template_json(specials, vocabulary);
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
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

std::string dump(const Json& json, int indent, const std::string& where) {
  try {
    return json.dump(indent);
  } catch (const Json::exception&) {
    fail(ErrorKind::input, "{}: damaged vocabulary: a token or template in it is not UTF-8", where);
  }
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
  GgufTokenizer out = {dump(json, 1, where) + "\n",
                       dump(config_document(metadata, vocabulary, specials), 2, where) + "\n",
                       {}};
  if (std::ssize(out.tokenizer_json) > kMaxText)
    fail(ErrorKind::input, "{}: damaged vocabulary: its tokenizer.json would have {} bytes", where,
         out.tokenizer_json.size());
  if (specials.bos) out.bos_token = vocabulary.tokens[*specials.bos];
  return out;
}

}  // namespace moerge
