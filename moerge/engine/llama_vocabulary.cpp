#include "moerge/engine/llama_vocabulary.h"

#include <ggml-cpp.h>
#include <gguf.h>
#include <llama.h>

#include <string>
#include <type_traits>
#include <unordered_map>

#include "moerge/base/error.h"
#include "moerge/engine/llama_log.h"

namespace moerge {
namespace {

constexpr std::string_view kTokenizerKeys = "tokenizer.";
constexpr std::string_view kChatTemplates = "tokenizer.chat_template";
constexpr size_t kLongestText = 1 << 16;  // its regular expressions recurse

// "llama_model_load: error loading model: error loading model vocabulary: REASON" -> REASON
std::string reason(const LlamaLog& log) {
  std::string text = log.first_error();
  for (const std::string_view prefix : {"error loading model: ", "error loading model vocabulary: "})
    if (const size_t at = text.find(prefix); at != std::string::npos) text.erase(0, at + prefix.size());
  return text.empty() ? "no reason given" : text;
}

void set(gguf_context* gguf, const char* key, bool value) { gguf_set_val_bool(gguf, key, value); }
void set(gguf_context* gguf, const char* key, uint32_t value) { gguf_set_val_u32(gguf, key, value); }
void set(gguf_context* gguf, const char* key, const std::string& value) {
  gguf_set_val_str(gguf, key, value.c_str());
}
void set(gguf_context* gguf, const char* key, const std::vector<std::string>& values) {
  std::vector<const char*> texts;
  texts.reserve(values.size());
  for (const std::string& value : values) texts.push_back(value.c_str());
  gguf_set_arr_str(gguf, key, texts.data(), texts.size());
}
void set(gguf_context* gguf, const char* key, const std::vector<int32_t>& values) {
  gguf_set_arr_data(gguf, key, GGUF_TYPE_INT32, values.data(), values.size());
}
void set(gguf_context* gguf, const char* key, const std::vector<float>& values) {
  gguf_set_arr_data(gguf, key, GGUF_TYPE_FLOAT32, values.data(), values.size());
}
template <typename T>
void set(gguf_context*, const char* key, const T&) {
  fail(ErrorKind::input, "\"{}\" has a type that llama.cpp does not expect there", key);
}

// llama.cpp ends the whole process over two tokens of the same text.
void check_tokens(const GgufMetadata& metadata) {
  const auto* tokens = metadata.array<std::string>("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) fail(ErrorKind::input, "there are no tokens");
  if (tokens->size() > INT32_MAX) fail(ErrorKind::input, "{} tokens are too many", tokens->size());
  std::unordered_map<std::string, size_t> seen;
  seen.reserve(tokens->size());
  for (size_t id = 0; id < tokens->size(); id++) {
    std::string text = (*tokens)[id].c_str();  // as far as llama.cpp reads it
    if (text.empty()) text = fmt::format("[EMPTY_{}]", id);
    const auto [other, added] = seen.emplace(std::move(text), id);
    if (!added)
      fail(ErrorKind::input, "tokens {} and {} would both read \"{}\", which llama.cpp does not take",
           other->second, id, other->first.substr(0, 80));
  }
}

}  // namespace

void LlamaVocabulary::Free::operator()(llama_model* model) const { llama_model_free(model); }

LlamaVocabulary::LlamaVocabulary(const GgufMetadata& metadata) {
  check_tokens(metadata);
  // It aborts on two spaces in a row where its "whitespace" splitter meets this kind of vocabulary.
  if (const std::string* pre = metadata.string("tokenizer.ggml.pre"); pre && *pre == "whitespace")
    fail(ErrorKind::unsupported, "the pre-tokenizer \"whitespace\" belongs to another kind of vocabulary");

  const gguf_context_ptr gguf(gguf_init_empty());
  gguf_set_val_str(gguf.get(), "general.architecture", "llama");  // any: only the vocabulary is loaded
  for (const auto& [key, value] : metadata.entries())
    if (key.starts_with(kTokenizerKeys) && !key.starts_with(kChatTemplates))
      std::visit([&, name = key.c_str()](const auto& v) { set(gguf.get(), name, v); }, value);

  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  ggml_backend_dev_t no_devices[] = {nullptr};
  params.devices = no_devices;
  const LlamaLog log;
  model_.reset(llama_model_init_from_user(gguf.get(), nullptr, nullptr, params));
  if (!model_) fail(ErrorKind::input, "llama.cpp refuses the vocabulary: {}", reason(log));
}

std::vector<int32_t> LlamaVocabulary::tokenize(std::string_view text) const {
  if (text.size() > kLongestText) fail(ErrorKind::input, "a text of {} bytes is too long", text.size());
  const llama_vocab* vocab = llama_model_get_vocab(model_.get());
  const int32_t length = static_cast<int32_t>(text.size());
  std::vector<int32_t> ids(text.size() + 16);
  try {
    for (;;) {
      const int32_t count =
          llama_tokenize(vocab, text.data(), length, ids.data(), static_cast<int32_t>(ids.size()),
                         /*add_special=*/false, /*parse_special=*/true);
      const bool fits = count >= 0;
      ids.resize(static_cast<size_t>(fits ? count : -count));
      if (fits) return ids;
    }
  } catch (const std::exception& error) {  // it lets the exceptions of its regular expressions through
    fail(ErrorKind::input, "llama.cpp cannot tokenise a text with this vocabulary: {}", error.what());
  }
}

bool LlamaVocabulary::adds_bos() const {
  return llama_vocab_get_add_bos(llama_model_get_vocab(model_.get()));
}

}  // namespace moerge
