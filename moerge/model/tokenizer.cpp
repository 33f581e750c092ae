#include "moerge/model/tokenizer.h"

#include <moerge_rust.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTokenizerFile = 256 << 20;

const MoergeTokenizer* get(const void* handle) { return static_cast<const MoergeTokenizer*>(handle); }

struct FreeBytes {
  size_t length = 0;
  void operator()(uint8_t* bytes) const { moerge_free_bytes(bytes, length); }
};

[[noreturn]] void fail_with(const std::string& what, char* error) {
  const std::string message = fmt::format("{}: {}", what, error ? error : "unknown error");
  moerge_free_text(error);
  throw Error(ErrorKind::input, message);
}

std::string read_if_exists(const fs::path& file) {
  return fs::exists(file) ? read_file(file, kMaxTokenizerFile) : std::string();
}

// A special token is written as its text or as an object with "content".
std::optional<std::string> special_token(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return {};
  if (found->is_object()) return json_string(*found, "content", where);
  return json_string(json, key, where);
}

std::optional<std::string> find_bos(const fs::path& folder) {
  std::string tokenizer_class;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path file = folder / name;
    const std::string text = read_if_exists(file);
    if (text.empty()) continue;
    const Json json = parse_json(text, file.string());
    if (!json.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", file.string());
    if (const auto token = special_token(json, "bos_token", file.string())) return token;
    if (json.contains("bos_token")) return {};  // an explicit null
    if (const auto value = json_string(json, "tokenizer_class", file.string())) tokenizer_class = *value;
  }
  // The one class whose default is not "none".
  if (tokenizer_class.starts_with("Llama") || tokenizer_class.starts_with("CodeLlama")) return "<s>";
  return {};
}

std::string read_tokenizer_json(const fs::path& folder) {
  const fs::path file = folder / "tokenizer.json";
  if (fs::exists(file)) return read_file(file, kMaxTokenizerFile);
  if (fs::exists(folder / "tokenizer.model"))
    fail(ErrorKind::unsupported,
         "{}: only a SentencePiece tokenizer.model here; save the tokenizer once with transformers "
         "(AutoTokenizer.from_pretrained(...).save_pretrained(...)) to get tokenizer.json",
         folder.string());
  fail(ErrorKind::input, "{}: no tokenizer.json in this folder", folder.string());
}

}  // namespace

void Tokenizer::Free::operator()(void* tokenizer) const {
  moerge_tokenizer_free(static_cast<MoergeTokenizer*>(tokenizer));
}

Tokenizer::Tokenizer(std::string_view json, std::optional<std::string> bos_token, std::string where)
    : where_(std::move(where)), bos_token_(std::move(bos_token)) {
  char* error = nullptr;
  handle_.reset(moerge_tokenizer_from_json(json.data(), json.size(), &error));
  if (!handle_) fail_with(where_, error);
}

Tokenizer::Tokenizer(const fs::path& folder)
    : Tokenizer(read_tokenizer_json(folder), {}, (folder / "tokenizer.json").string()) {
  bos_token_ = find_bos(folder);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  char* error = nullptr;
  size_t count = 0;
  uint32_t* ids =
      moerge_tokenizer_encode(get(handle_.get()), text.data(), text.size(), add_special, &count, &error);
  if (!ids) fail_with(fmt::format("{}: cannot tokenise \"{}\"", where_, text.substr(0, 80)), error);
  // An id beyond 31 bits is kept as the largest one: it is beyond any model's embeddings all the same.
  std::vector<int32_t> out(count);
  for (size_t i = 0; i < count; i++) out[i] = static_cast<int32_t>(std::min<uint32_t>(ids[i], INT32_MAX));
  moerge_free_ids(ids, count);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::vector<uint32_t> known;
  for (const int32_t id : ids)
    if (id >= 0) known.push_back(static_cast<uint32_t>(id));
  char* error = nullptr;
  size_t length = 0;
  uint8_t* text = moerge_tokenizer_decode(get(handle_.get()), known.data(), known.size(), &length, &error);
  if (!text) fail_with(fmt::format("{}: cannot turn tokens into text", where_), error);
  const std::unique_ptr<uint8_t, FreeBytes> owner(text, FreeBytes{length});
  return std::string(reinterpret_cast<const char*>(text), length);
}

std::vector<Token> Tokenizer::tokens() const {
  char* error = nullptr;
  size_t length = 0;
  uint8_t* records = moerge_tokenizer_tokens(get(handle_.get()), &length, &error);
  if (!records) fail_with(where_, error);
  const std::unique_ptr<uint8_t, FreeBytes> owner(records, FreeBytes{length});
  std::vector<Token> out;
  for (size_t at = 0; at < length;) {
    std::array<uint32_t, 3> head = {};  // id, flags, length
    std::memcpy(head.data(), records + at, sizeof(head));
    at += sizeof(head);
    const uint32_t flags = head[1];
    out.push_back({.id = head[0],
                   .text = std::string(reinterpret_cast<const char*>(records) + at, head[2]),
                   .added = (flags & MOERGE_ADDED) != 0,
                   .special = (flags & MOERGE_SPECIAL) != 0,
                   .normalized = (flags & MOERGE_NORMALIZED) != 0,
                   .single_word = (flags & MOERGE_SINGLE_WORD) != 0,
                   .lstrip = (flags & MOERGE_LSTRIP) != 0,
                   .rstrip = (flags & MOERGE_RSTRIP) != 0});
    at += head[2];
  }
  return out;
}

void Tokenizer::add_tokens(std::span<const Token> tokens) {
  std::string records;
  for (const Token& token : tokens) {
    uint32_t flags = MOERGE_ADDED;
    if (token.special) flags |= MOERGE_SPECIAL;
    if (token.normalized) flags |= MOERGE_NORMALIZED;
    if (token.single_word) flags |= MOERGE_SINGLE_WORD;
    if (token.lstrip) flags |= MOERGE_LSTRIP;
    if (token.rstrip) flags |= MOERGE_RSTRIP;
    const std::array<uint32_t, 3> head = {0, flags, static_cast<uint32_t>(token.text.size())};
    records.append(reinterpret_cast<const char*>(head.data()), sizeof(head));
    records += token.text;
  }
  char* error = nullptr;
  if (!moerge_tokenizer_add_tokens(static_cast<MoergeTokenizer*>(handle_.get()),
                                   reinterpret_cast<const uint8_t*>(records.data()), records.size(), &error))
    fail_with(fmt::format("{}: cannot add tokens", where_), error);
}

int64_t Tokenizer::model_size() const {
  return static_cast<int64_t>(moerge_tokenizer_model_size(get(handle_.get())));
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(moerge_tokenizer_vocab_size(get(handle_.get())));
}

Tokenizer::Difference Tokenizer::difference(const Tokenizer& other) const {
  Difference out;
  char* example = nullptr;
  out.count = static_cast<int64_t>(
      moerge_tokenizer_difference(get(handle_.get()), get(other.handle_.get()), &example));
  if (example) out.example = example;
  moerge_free_text(example);
  return out;
}

}  // namespace moerge
