#include "moerge/model/tokenizer_files.h"

#include <algorithm>
#include <array>

#include "moerge/base/file.h"
#include "moerge/model/gguf_tokenizer.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTokenizer = "tokenizer.json";

// What a model folder holds beside weights and config.json.
constexpr std::array kFiles = {kTokenizer,
                               "tokenizer.model",
                               "tokenizer_config.json",
                               "special_tokens_map.json",
                               "added_tokens.json",
                               "vocab.json",
                               "merges.txt",
                               "chat_template.jinja",
                               "chat_template.json",
                               "generation_config.json"};

void copy_small_file(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  File target = File::create(to);
  copy_range(source.file(), 0, target, 0, std::ssize(source.bytes()));
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  if (fs::file_size(a, error) != fs::file_size(b, error)) return false;
  const MappedFile x(a), y(b);
  return std::ranges::equal(x.bytes(), y.bytes());
}

}  // namespace

bool has_tokenizer(const Model& model) {
  return model.gguf() ? has_gguf_tokenizer(*model.gguf()) : fs::exists(model.path / kTokenizer);
}

Tokenizer read_tokenizer(const Model& model) {
  if (!model.gguf()) return Tokenizer(model.path);
  const GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), model.path.string());
  return Tokenizer(made.tokenizer_json, made.bos_token, model.path.string());
}

bool same_tokenizer_file(const Model& a, const Model& b) {
  return !a.gguf() && !b.gguf() && has_tokenizer(a) && has_tokenizer(b) &&
         same_file(a.path / kTokenizer, b.path / kTokenizer);
}

void write_tokenizer_files(const Model& model, const fs::path& folder) {
  if (model.gguf()) {
    if (!has_tokenizer(model)) return;
    const GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), model.path.string());
    write_file(folder / kTokenizer, made.tokenizer_json);
    write_file(folder / "tokenizer_config.json", made.tokenizer_config_json);
    return;
  }
  for (const char* name : kFiles)
    if (const fs::path file = model.path / name; fs::is_regular_file(file))
      copy_small_file(file, folder / name);
  // Chat templates beyond the default one lie in a folder of their own.
  const fs::path more = model.path / "additional_chat_templates";
  if (!fs::is_directory(more)) return;
  fs::create_directory(folder / more.filename());
  for (const fs::directory_entry& entry : fs::directory_iterator(more))
    if (entry.is_regular_file())
      copy_small_file(entry.path(), folder / more.filename() / entry.path().filename());
}

}  // namespace moerge
