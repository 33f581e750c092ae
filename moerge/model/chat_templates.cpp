#include "moerge/model/chat_templates.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/base/utf8.h"
#include "moerge/model/tokenizer_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTemplate = 4 << 20;

// https://github.com/openai/openai-python/blob/v0.28.1/chatml.md: every message between two tokens.
constexpr std::string_view kChatml =
    R"jinja({%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
)jinja";
constexpr std::string_view kChatmlTokens[] = {"<|im_start|>", "<|im_end|>"};

// https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/: a header for the role, the trimmed
// text.
constexpr std::string_view kLlama3 =
    R"jinja({{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
)jinja";
constexpr std::string_view kLlama3Tokens[] = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};

// Mistral 7B Instruct 0.1 and 0.2 (https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.2): [INST] is
// plain text there. A system message is put in front of the user message that follows it.
constexpr std::string_view kMistral =
    R"jinja({{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = message['content'] + '\n\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '[INST] ' + ns.system + message['content'] + ' [/INST]' -}}
{%- set ns.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- ' ' + message['content'] + eos_token -}}
{%- else -%}
{{- raise_exception('the mistral template knows the roles system, user and assistant') -}}
{%- endif -%}
{%- endfor -%}
{%- if ns.system -%}
{{- raise_exception('the mistral template needs a user message after a system message') -}}
{%- endif -%}
)jinja";

// https://github.com/tatsu-lab/stanford_alpaca: one instruction and its response; several follow one another.
constexpr std::string_view kAlpaca =
    R"jinja({{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] + '\n\n' -}}
{%- else -%}
{{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '### Instruction:\n' + message['content'] + '\n\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '### Response:\n' + message['content'] + eos_token + '\n\n' -}}
{%- elif not (message['role'] == 'system' and loop.first) -%}
{{- raise_exception('the alpaca template knows the roles user and assistant, and system for the first message') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\n' -}}
{%- endif -%}
)jinja";

// https://huggingface.co/LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct: always a system message, an empty one if need
// be; a user's message has no token for its end.
constexpr std::string_view kExaone =
    R"jinja({%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '[|system|][|endofturn|]\n' -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- '[|user|]' + message['content'] + '\n' -}}
{%- else -%}
{{- '[|' + message['role'] + '|]' + message['content'] + '[|endofturn|]\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '[|assistant|]' -}}
{%- endif -%}
)jinja";
constexpr std::string_view kExaoneTokens[] = {"[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"};

constexpr BuiltInTemplate kBuiltIn[] = {{"chatml", kChatml, kChatmlTokens},
                                        {"llama3", kLlama3, kLlama3Tokens},
                                        {"mistral", kMistral, {}},
                                        {"alpaca", kAlpaca, {}},
                                        {"exaone", kExaone, kExaoneTokens}};

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// A text, or a list of {"name", "template"}.
std::string pick(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  const Json* only = nullptr;
  if (value.is_array())
    for (const Json& choice : value) {
      const Json* name = find(choice, "name");
      const Json* text = find(choice, "template");
      if (!text || !text->is_string()) continue;
      if (name && *name == "default") return text->get<std::string>();
      if (value.size() == 1) only = text;
    }
  if (only) return only->get<std::string>();
  fail(ErrorKind::input,
       "{}: \"chat_template\" should be a text, or a list of named templates with one called \"default\"",
       where);
}

std::optional<std::string> template_in(const fs::path& file) {
  if (!fs::exists(file)) return {};
  const Json json = read_json(file, 16 << 20);
  const Json* value = find(json, "chat_template");
  return value ? std::optional(pick(*value, file.string())) : std::nullopt;
}

std::optional<std::string> template_of(const GgufMetadata& metadata, const std::string& where) {
  if (const std::string* text = metadata.string("tokenizer.chat_template")) return *text;
  const auto* names = metadata.array<std::string>("tokenizer.chat_templates");
  if (!names || names->empty()) return {};
  const std::string* only =
      names->size() == 1 ? metadata.string("tokenizer.chat_template." + names->front()) : nullptr;
  if (only) return *only;
  fail(ErrorKind::input, "{}: it has named chat templates, and none of them is the default one", where);
}

}  // namespace

std::span<const BuiltInTemplate> built_in_templates() { return kBuiltIn; }

std::string read_template_file(const fs::path& file) {
  const std::string text = read_file(file, kMaxTemplate);
  if (!is_utf8(text)) fail(ErrorKind::input, "{} is not UTF-8", file.string());
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i] == '\r' ? '\n' : text[i];
  }
  return out;
}

std::optional<std::string> find_chat_template(const Model& model) {
  return model.gguf() ? template_of(*model.gguf(), model.path.string()) : find_chat_template(model.path);
}

std::optional<std::string> find_chat_template(const fs::path& folder) {
  if (const fs::path file = folder / "chat_template.jinja"; fs::exists(file)) return read_template_file(file);
  if (auto text = template_in(folder / "tokenizer_config.json")) return text;
  return template_in(folder / "chat_template.json");
}

std::string check_template_tokens(const BuiltInTemplate& known, const Model& model) {
  std::vector<std::string_view> missing;
  try {
    if (known.tokens.empty()) return "";
    const Tokenizer tokenizer = read_tokenizer(model);
    for (const std::string_view token : known.tokens)
      if (tokenizer.encode(token).size() != 1) missing.push_back(token);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    return fmt::format("whether the base has the tokens {} of that template cannot be checked: {}",
                       fmt::join(known.tokens, ", "), error.message());
  }
  if (missing.empty()) return "";
  return fmt::format(
      "the chat template \"{}\" writes {}, which the tokenizer of \"{}\" cuts up into several "
      "tokens: the result was not trained on {}",
      known.name, fmt::join(missing, ", "), model.name, missing.size() == 1 ? "it" : "them");
}

}  // namespace moerge
