#include "moerge/export/vocabulary.h"

#include <algorithm>
#include <optional>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/suggest.h"
#include "moerge/export/pre_tokenizer.h"
#include "moerge/export/special_tokens.h"
#include "moerge/export/tokenization_check.h"
#include "moerge/model/gguf_tokenizer.h"
#include "moerge/model/hf_tokenizer.h"
#include "moerge/model/sentencepiece_model.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxSentencePieceFile = 64 << 20;
constexpr float kAddedScore = -1000.0f, kUnusedScore = -10000.0f;
constexpr const char* kPreKey = "tokenizer.ggml.pre";
constexpr const char* kAddBosKey = "tokenizer.ggml.add_bos_token";

struct Vocabulary {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::vector<float> scores;

  explicit Vocabulary(int64_t size) {
    texts.reserve(static_cast<size_t>(size));
    for (int64_t id = 0; id < size; id++) texts.push_back(fmt::format("[PAD{}]", id));
    types.assign(texts.size(), kUnused);
    scores.assign(texts.size(), kUnusedScore);
  }
  int64_t size() const { return std::ssize(texts); }
  void set(int64_t id, std::string text, TokenType type, float score = kAddedScore) {
    const size_t at = static_cast<size_t>(id);
    texts[at] = std::move(text), types[at] = type, scores[at] = score;
  }
};

// Tokens that models forgot to call special (does_token_look_special in conversion/base.py).
bool looks_special(std::string_view text) {
  constexpr std::string_view kNames[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
  if (std::ranges::find(kNames, text) != std::end(kNames)) return true;
  const auto between = [&](std::string_view first, std::string_view last) {
    return text.starts_with(first) && text.ends_with(last);
  };
  return between("<|", "|>") || between("<｜", "｜>") || between("<unused", ">");
}

std::string with_spaces(std::string text) {
  constexpr std::string_view kBlock = "▁";
  for (size_t at = 0; (at = text.find(kBlock, at)) != std::string::npos; at++)
    text.replace(at, kBlock.size(), " ");
  return text;
}

// A token that the tokenizer files add, special or not.
void set_added(Vocabulary& vocabulary, int64_t id, const std::string& text, bool special) {
  if (special || looks_special(text))
    vocabulary.set(id, text, kControl);
  else
    vocabulary.set(id, with_spaces(text), kUserDefined);
}

// A byte of the "byte fallback": <0x0A>.
bool is_byte(std::string_view text) {
  const auto hex = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; };
  return text.size() == 6 && text.starts_with("<0x") && hex(text[3]) && hex(text[4]) && text[5] == '>';
}

class Writer {
 public:
  Writer(GgufMetadata& metadata, const fs::path& folder, const Json& config, const VocabularyOptions& options)
      : metadata_(metadata), files_(read_tokenizer_files(folder)), config_(config), options_(options) {
    model_type_ = json_string(config, "model_type", file("config.json")).value_or("");
    rows_ = json_int(config, "vocab_size", file("config.json"));
    if (rows_ && (*rows_ < 1 || *rows_ > kMaxTokens))
      fail(ErrorKind::input, "{}: \"vocab_size\" is {}, expected 1 to {}", file("config.json"), *rows_,
           kMaxTokens);
    check_pre_option();
  }

  std::vector<std::string> write() {
    const bool llama = model_type_ == "llama" || model_type_ == "mistral" || model_type_ == "mixtral";
    if (llama)
      if (const auto space = json_bool(files_.tokenizer_config, "add_prefix_space", config_file()))
        metadata_.set("tokenizer.ggml.add_space_prefix", *space);
    // The converter reads tokenizer.model for all but two families, and a byte fallback in tokenizer.json for
    // llama only. Where it would give up, what llama.cpp can run is taken.
    const bool only_json = model_type_ == "qwen2_moe" || model_type_ == "qwen3_moe";
    if (files_.sentencepiece && (!only_json || files_.tokenizer.is_null() || has_byte_fallback()))
      write_sentencepiece();
    else if (files_.tokenizer.is_null())
      fail_without_files();
    else if (has_byte_fallback())
      write_llama_hf();
    else
      write_gpt2();
    if (llama) write_llama_extras();
    return std::move(warnings_);
  }

 private:
  std::string file(const char* name) const { return (files_.folder / name).string(); }
  std::string json_file() const { return file("tokenizer.json"); }
  std::string config_file() const { return file("tokenizer_config.json"); }
  template <typename... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    warnings_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void check_pre_option() const {
    if (options_.pre.empty() || std::ranges::count(pre_names(), options_.pre) > 0) return;
    const std::string close = nearest(options_.pre, pre_names());
    fail(ErrorKind::usage, "--pre {}: llama.cpp knows no pre-tokenizer of that name{}", options_.pre,
         close.empty() ? ", for example gpt-2, llama-bpe, qwen2, smollm"
                       : fmt::format(" (did you mean {}?)", close));
  }

  [[noreturn]] void fail_without_files() const {
    if (fs::exists(files_.folder / "tekken.json"))
      fail(ErrorKind::unsupported,
           "{}: only Mistral's tekken.json here; save the tokenizer once with transformers "
           "(AutoTokenizer.from_pretrained(...).save_pretrained(...)) to get tokenizer.json",
           files_.folder.string());
    fail(ErrorKind::input, "{}: neither tokenizer.json nor tokenizer.model in this folder",
         files_.folder.string());
  }

  // Llama 2's and its like: pieces with U+2581 for a space, and a token for every byte. transformers 5.17 and
  // before claim that also of byte-level tokens that they read from a GGUF, which have none of these.
  bool has_byte_fallback() const {
    const Json& model = member(files_.tokenizer, "model");
    return member(model, "type") == "BPE" && member(model, "byte_fallback") == true &&
           member(member(files_.tokenizer, "decoder"), "type") == "Sequence" &&
           !read_pre_tokenizer(files_.tokenizer).byte_level;
  }

  void write_sentencepiece() {
    const std::string where = file("tokenizer.model");
    const std::string bytes = read_file(where, kMaxSentencePieceFile);
    const SentencePieceModel model = parse_sentencepiece_model(std::as_bytes(std::span(bytes)), where);
    Vocabulary vocabulary(rows_.value_or(std::ssize(model.pieces)));
    if (std::ssize(model.pieces) > vocabulary.size())
      warn("{}: {} pieces, the model has {}: the last ones are left out", where, model.pieces.size(),
           vocabulary.size());
    const int64_t count = std::min(vocabulary.size(), std::ssize(model.pieces));
    for (int64_t id = 0; id < count; id++) {
      const SentencePiece& piece = model.pieces[static_cast<size_t>(id)];
      const bool user = piece.type == PieceType::user_defined;  // normal to the converter
      vocabulary.set(id, piece.text, user ? kNormal : static_cast<TokenType>(piece.type), piece.score);
    }
    const auto fits = [&](int64_t id, const std::string& text, const std::string& source) {
      if (id >= 0 && id < vocabulary.size()) return true;
      warn("{}: \"{}\" has the id {}, the model has {} tokens: left out", source, text.substr(0, 80), id,
           vocabulary.size());
      return false;
    };
    const std::string added_file = file("added_tokens.json");
    for (const auto& [text, id] : files_.added_tokens.items()) {
      if (!id.is_number_integer())
        fail(ErrorKind::input, "{}: \"{}\" has no id", added_file, text.substr(0, 80));
      if (fits(id.get<int64_t>(), text, added_file)) vocabulary.set(id.get<int64_t>(), text, kUserDefined);
    }
    for (const Token& token : decoder_tokens(files_))
      if (fits(token.id, token.text, config_file()))
        set_added(vocabulary, token.id, token.text, token.special);
    if (!model.merges)
      warn("{}: a unigram model; llama.cpp merges pairs instead, and will cut some words otherwise", where);
    write_tokens("llama", vocabulary);
    compare_llama("");
  }

  void write_llama_hf() {
    const HfTokenizer hf = load_hf_tokenizer(files_, config_);
    const std::set<std::string_view> special(hf.special.begin(), hf.special.end());
    std::vector<Token> tokens = hf.tokenizer.tokens();
    // The converter writes no rows beyond the last token; llama.cpp would then refuse the embeddings.
    const int64_t end = check_ids(tokens);
    Vocabulary vocabulary(rows_.value_or(end));
    vocabulary.scores.assign(vocabulary.texts.size(), kAddedScore);
    for (Token& token : tokens) {
      const bool beyond = token.id >= hf.tokenizer.model_size();
      const TokenType type = !beyond && is_byte(token.text) ? kByte
                             : special.contains(token.text) ? kControl
                             : beyond                       ? kUserDefined
                                                            : kNormal;
      vocabulary.set(token.id, std::move(token.text), type);
    }
    write_tokens("llama", vocabulary);
    compare_llama(" (there are no scores in it; the original's tokenizer.model has them)");
  }

  void write_gpt2() {
    if (const Json& type = member(member(files_.tokenizer, "model"), "type"); type != "BPE")
      fail(ErrorKind::unsupported, "{}: a {} model; for llama.cpp it must be BPE", json_file(),
           type.is_string() ? type.get<std::string>() : "nameless");
    const HfTokenizer hf = load_hf_tokenizer(files_, config_);
    std::vector<Token> tokens = hf.tokenizer.tokens();
    const int64_t end = check_ids(tokens);
    Vocabulary vocabulary(rows_.value_or(end));
    for (Token& token : tokens) {
      if (!token.added) {
        vocabulary.set(token.id, std::move(token.text), kNormal);
        continue;
      }
      // llama.cpp looks for it in the text as it is.
      if (!token.normalized) token.text = hf.tokenizer.decode(hf.tokenizer.encode(token.text));
      set_added(vocabulary, token.id, token.text, token.special);
    }
    vocabulary.scores.clear();
    write_tokens("gpt2", vocabulary);
    write_pre(hf.tokenizer);
  }

  // One more than the largest id. Throws when the model has no row for one.
  int64_t check_ids(const std::vector<Token>& tokens) {
    if (tokens.empty()) fail(ErrorKind::input, "{}: no tokens", json_file());
    const auto same = std::ranges::adjacent_find(tokens, {}, &Token::id);
    if (same != tokens.end())
      warn("{}: \"{}\" and \"{}\" have the same id {}", json_file(), same->text.substr(0, 80),
           std::next(same)->text.substr(0, 80), same->id);
    const Token& last = tokens.back();
    const int64_t rows = rows_.value_or(kMaxTokens);
    if (last.id >= rows)
      fail(ErrorKind::input,
           "{}: the token \"{}\" has the id {}, but the model has {} rows (\"vocab_size\" in config.json): "
           "take "
           "the token out of the tokenizer files, or enlarge the model's embeddings",
           json_file(), last.text.substr(0, 80), last.id, rows);
    return last.id + 1;
  }

  void write_tokens(const char* model, Vocabulary& vocabulary) {
    const int64_t size = vocabulary.size();
    const bool merges = vocabulary.scores.empty();
    metadata_.set("tokenizer.ggml.model", std::string(model));
    metadata_.set(kPreKey, std::string("default"));
    metadata_.set("tokenizer.ggml.tokens", std::move(vocabulary.texts));
    if (!merges) metadata_.set("tokenizer.ggml.scores", std::move(vocabulary.scores));
    metadata_.set("tokenizer.ggml.token_type", std::move(vocabulary.types));
    if (merges)
      if (std::vector<std::string> list = read_merges(files_); !list.empty())
        metadata_.set("tokenizer.ggml.merges", std::move(list));
    SpecialTokens special = read_special_tokens(files_, config_, kSpecialRoles, size, warnings_);
    if (options_.chat_template) special.chat_template = *options_.chat_template;
    add_special_tokens(metadata_, special, warnings_);
  }

  LlamaVocabulary load_llama() const {
    try {
      return LlamaVocabulary(metadata_);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", files_.folder.string(), error.message()));
    }
  }

  // llama.cpp merges the pair with the best score where the tokenizers library goes by the list of merges:
  // they differ when tokenizer.json is all there is, and when its normaliser does more than replace spaces.
  void compare_llama(const char* hint) {
    if (!options_.pre.empty())
      warn("--pre {} is not used: this vocabulary has no pre-tokenizer", options_.pre);
    const LlamaVocabulary llama = load_llama();
    if (files_.tokenizer.is_null()) return;
    try {
      const HfTokenizer hf = load_hf_tokenizer(files_, config_);
      for (const std::string& text : comparison_texts(hf.tokenizer, ""))
        if (const std::string difference = tokenization_difference(hf.tokenizer, llama, text);
            !difference.empty()) {
          warn("{}: llama.cpp will cut some texts otherwise{}: {}", json_file(), hint, difference);
          return;
        }
    } catch (const Error& error) {
      warn("cannot compare with llama.cpp's tokens: {}", error.message());
    }
  }

  void write_pre(const Tokenizer& tokenizer) {
    const PreTokenizer pre_tokenizer = read_pre_tokenizer(files_.tokenizer);
    if (!options_.pre.empty()) {
      metadata_.set(kPreKey, options_.pre);
      const LlamaVocabulary llama = load_llama();
      for (const std::string& text : comparison_texts(tokenizer, pre_tokenizer.adds_space ? " " : ""))
        if (const std::string difference = tokenization_difference(tokenizer, llama, text);
            !difference.empty()) {
          warn("{}: with --pre {}, {}", json_file(), options_.pre, difference);
          break;
        }
      return;
    }
    if (const std::string_view known = pre_of_known(tokenizer); !known.empty()) {
      metadata_.set(kPreKey, std::string(known));
      load_llama();
      return;
    }
    recognise_pre(tokenizer, pre_tokenizer);
  }

  // transformers 4 replaces the post-processor of some classes by one that only adds the beginning.
  std::string_view pre_of_known(const Tokenizer& tokenizer) const {
    const std::string text(pre_check_text());
    std::string_view name = pre_by_hash(tokenizer.encode(text, true));
    if (!name.empty()) return name;
    std::vector<int32_t> ids = tokenizer.encode(text);
    name = pre_by_hash(ids);
    const auto bos = metadata_.integer("tokenizer.ggml.bos_token_id");
    if (!name.empty() || !bos) return name;
    ids.insert(ids.begin(), static_cast<int32_t>(*bos));
    return pre_by_hash(ids);
  }

  void recognise_pre(const Tokenizer& tokenizer, const PreTokenizer& pre_tokenizer) {
    const std::vector<std::string> texts = comparison_texts(tokenizer, pre_tokenizer.adds_space ? " " : "");
    const std::vector<std::string_view> alike = pre_by_structure(pre_tokenizer);
    std::vector<std::string_view> candidates = alike;
    for (const std::string_view kind : pre_kinds())
      if (std::ranges::count(alike, kind) == 0) candidates.push_back(kind);
    // Of the candidate that is alike, and agrees on the converter's text at least.
    std::string fallback, fallback_difference, first_difference;
    for (const std::string_view candidate : candidates) {
      metadata_.set(kPreKey, std::string(candidate));
      const LlamaVocabulary llama = load_llama();
      const std::string first = tokenization_difference(tokenizer, llama, texts[0]);
      const std::string second = first.empty() ? tokenization_difference(tokenizer, llama, texts[1]) : "";
      const bool is_alike = std::ranges::count(alike, candidate) > 0;
      if (first.empty() && second.empty()) {
        if (!is_alike)
          warn("{}: pre-tokenizer ({}) not known to llama.cpp; \"{}\" cuts two test texts alike and is taken",
               json_file(), describe(pre_tokenizer), candidate);
        return finish_pre(tokenizer, pre_tokenizer, llama);
      }
      if (first_difference.empty()) first_difference = first.empty() ? second : first;
      if (is_alike && first.empty() && fallback.empty()) fallback = candidate, fallback_difference = second;
    }
    if (fallback.empty())
      fail(ErrorKind::unsupported,
           "{}: llama.cpp has no pre-tokenizer that cuts text like this one ({}): {}; --pre NAME takes one "
           "all "
           "the same",
           json_file(), describe(pre_tokenizer), first_difference);
    metadata_.set(kPreKey, fallback);
    warn("{}: llama.cpp will cut some texts otherwise: {}", json_file(), fallback_difference);
    finish_pre(tokenizer, pre_tokenizer, load_llama());
  }

  // What llama.cpp does by itself and this tokenizer does not.
  void finish_pre(const Tokenizer& tokenizer, const PreTokenizer& pre_tokenizer,
                  const LlamaVocabulary& llama) {
    if (pre_tokenizer.adds_space)
      warn("{}: puts a space in front of a text, llama.cpp does not: prompts should begin with one",
           json_file());
    if (!metadata_.find(kAddBosKey) && llama.adds_bos() &&
        tokenizer.encode("a") == tokenizer.encode("a", true))
      metadata_.set(kAddBosKey, false);
    const std::string text = added_tokens_text(tokenizer);
    if (const std::string difference = tokenization_difference(tokenizer, llama, text); !difference.empty())
      warn("{}: llama.cpp will cut some texts with added tokens otherwise: {}", json_file(), difference);
  }

  void write_llama_extras() {
    const int64_t size = std::ssize(*metadata_.array<std::string>("tokenizer.ggml.tokens"));
    if (rows_ == 32016) {  // Code Llama
      constexpr std::string_view kRoles[] = {"prefix", "suffix", "middle", "eot"};
      SpecialTokens tokens = read_special_tokens(files_, config_, kRoles, size, warnings_);
      set_special_token(tokens, "eot", 32010, size);
      add_special_tokens(metadata_, tokens, warnings_);
    }
    if (rows_ == 49152) metadata_.set(kAddBosKey, false);  // Granite
  }

  GgufMetadata& metadata_;
  const TokenizerFiles files_;
  const Json& config_;
  const VocabularyOptions& options_;
  std::string model_type_;
  std::optional<int64_t> rows_;  // of the embeddings
  std::vector<std::string> warnings_;
};

}  // namespace

std::vector<std::string> add_vocabulary(GgufMetadata& metadata, const fs::path& folder, const Json& config,
                                        const VocabularyOptions& options) {
  return Writer(metadata, folder, config, options).write();
}

}  // namespace moerge
