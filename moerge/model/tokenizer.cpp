#include "moerge/model/tokenizer.h"

#include <moerge_rust.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/model/hf_tokenizer.h"

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

Json read_settings(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = parse_json(read_file(file, kMaxTokenizerFile), file.string());
  if (!json.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", file.string());
  return json;
}

// Classes that have a token where the files state none.
struct ClassBos {
  std::string_view tokenizer_class, text;
};
constexpr ClassBos kClassBos[] = {
    {"LlamaTokenizer", "<s>"}, {"CodeLlamaTokenizer", "<s>"}, {"GPT2Tokenizer", "<|endoftext|>"}};

// A token with a role is found in any text, also where tokenizer.json has it in the vocabulary alone. False
// when it is no token.
bool recognise(Tokenizer& tokenizer, const std::string& text) {
  if (tokenizer.encode(text).size() == 1) return true;
  const std::vector<Token> tokens = tokenizer.tokens();
  if (std::ranges::find(tokens, text, &Token::text) == tokens.end()) return false;
  tokenizer.add_tokens(std::array{Token{.text = text, .added = true, .special = true}});
  return true;
}

// The beginning-of-sequence token that a folder with tokenizer.json states, or that its class has.
std::optional<std::string> find_bos(const fs::path& folder, Tokenizer& tokenizer) {
  const fs::path file = folder / "tokenizer_config.json";
  const Json config = read_settings(file), map = read_settings(folder / "special_tokens_map.json");
  const StatedToken bos = stated_token(config, map, "bos_token", folder);
  if (bos.stated) {
    if (bos.text) recognise(tokenizer, *bos.text);
    return bos.text;
  }
  std::string stated = json_string(config, "tokenizer_class", file.string()).value_or("");
  if (stated.ends_with("Fast")) stated.resize(stated.size() - 4);
  for (const ClassBos& row : kClassBos)
    if (row.tokenizer_class == stated && recognise(tokenizer, std::string(row.text)))
      return std::string(row.text);
  return {};
}

Tokenizer open_tokenizer(const fs::path& folder) {
  const fs::path file = folder / "tokenizer.json";
  if (fs::exists(file)) {
    Tokenizer tokenizer(read_file(file, kMaxTokenizerFile), {}, file.string());
    tokenizer.set_bos_token(find_bos(folder, tokenizer));
    return tokenizer;
  }
  if (!fs::exists(folder / "tokenizer.model"))
    fail(ErrorKind::input, "{}: neither tokenizer.json nor tokenizer.model in this folder", folder.string());
  const fs::path config = folder / "config.json";
  return std::move(
      load_hf_tokenizer(read_tokenizer_files(folder), fs::exists(config) ? read_json(config) : Json::object())
          .tokenizer);
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

Tokenizer::Tokenizer(const fs::path& folder) : Tokenizer(open_tokenizer(folder)) {}

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
