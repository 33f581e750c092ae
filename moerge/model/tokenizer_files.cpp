#include "moerge/model/tokenizer_files.h"

#include <algorithm>
#include <array>

#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/model/gguf_tokenizer.h"
#include "moerge/model/hf_tokenizer.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kPieces = "tokenizer.model";
constexpr const char* kConfig = "tokenizer_config.json";
constexpr int64_t kMaxConfigFile = 16 << 20;

// What a model folder holds beside weights and config.json.
constexpr std::array kFiles = {kTokenizer,          kPieces,      kConfig,      "special_tokens_map.json",
                               "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json"};

// Each outweighs tokenizer_config.json for some reader.
constexpr std::array kTemplateFiles = {"chat_template.jinja", "chat_template.json"};

void copy_small_file(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  File target = File::create(to);
  copy_range(source.file(), 0, target, 0, std::ssize(source.bytes()));
}

// The same bytes, or neither is there.
bool same_file(const fs::path& a, const fs::path& b) {
  if (!fs::exists(a) || !fs::exists(b)) return fs::exists(a) == fs::exists(b);
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  if (fs::file_size(a, error) != fs::file_size(b, error)) return false;
  const MappedFile x(a), y(b);
  return std::ranges::equal(x.bytes(), y.bytes());
}

}  // namespace

bool has_tokenizer(const Model& model) {
  return model.gguf() ? has_gguf_tokenizer(*model.gguf())
                      : fs::exists(model.path / kTokenizer) || fs::exists(model.path / kPieces);
}

Tokenizer read_tokenizer(const Model& model) {
  if (!model.gguf()) return Tokenizer(model.path);
  const GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), model.path.string());
  return Tokenizer(made.tokenizer_json, made.bos_token, model.path.string());
}

std::optional<std::string> find_eos_token(const Model& model) {
  const auto settings = [&](const char* name) {
    const fs::path file = model.path / name;
    return fs::exists(file) ? read_json(file, kMaxConfigFile) : Json::object();
  };
  if (!model.gguf())
    return stated_token(settings(kConfig), settings("special_tokens_map.json"), "eos_token", model.path).text;
  const GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), model.path.string());
  return stated_token(parse_json(made.tokenizer_config_json, model.path.string()), Json::object(),
                      "eos_token", model.path)
      .text;
}

bool same_tokenizer_file(const Model& a, const Model& b) {
  if (a.gguf() || b.gguf() || !has_tokenizer(a) || !has_tokenizer(b)) return false;
  const auto same = [&](const char* name) { return same_file(a.path / name, b.path / name); };
  if (fs::exists(a.path / kTokenizer)) return same(kTokenizer);
  return std::ranges::all_of(
      std::array{kTokenizer, kPieces, kConfig, "special_tokens_map.json", "added_tokens.json"}, same);
}

void write_tokenizer_files(const Model& model, const fs::path& folder, const std::string* chat_template) {
  const auto with_template = [&](const std::string& config, const fs::path& where) {
    return chat_template ? set_json_member(config, "chat_template", *chat_template, where.string()) : config;
  };
  if (model.gguf()) {
    if (!has_tokenizer(model)) return;
    const GgufTokenizer made = make_gguf_tokenizer(*model.gguf(), model.path.string());
    write_file(folder / kTokenizer, made.tokenizer_json);
    write_file(folder / kConfig, with_template(made.tokenizer_config_json, model.path));
    return;
  }
  for (const char* name : kFiles)
    if (const fs::path file = model.path / name;
        fs::is_regular_file(file) && !(chat_template && name == std::string_view(kConfig)))
      copy_small_file(file, folder / name);
  if (chat_template) {
    const fs::path config = model.path / kConfig;
    write_file(
        folder / kConfig,
        with_template(fs::is_regular_file(config) ? read_file(config, kMaxConfigFile) : "{}\n", config));
    return;
  }
  for (const char* name : kTemplateFiles)
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
