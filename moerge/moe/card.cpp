#include "moerge/moe/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/moe/summary.h"

namespace moerge {
namespace {

// A JSON string is a YAML string.
std::string yaml_string(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The longest run of backticks in a text decides how many must fence it.
size_t longest_backticks(std::string_view text) {
  size_t longest = 0, run = 0;
  for (const char c : text) longest = std::max(longest, run = c == '`' ? run + 1 : 0);
  return longest;
}

std::string code_span(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  const std::string fence(longest_backticks(text) + 1, '`');
  const char* pad = text.starts_with('`') || text.ends_with('`') ? " " : "";
  return fence + pad + text + pad + fence;
}

std::string code_block(const std::string& language, const std::string& text) {
  const std::string fence(std::max<size_t>(3, longest_backticks(text) + 1), '`');
  return fmt::format("{}{}\n{}{}{}\n", fence, language, text, text.ends_with('\n') ? "" : "\n", fence);
}

std::string link(const Model& model) {
  const auto page = [](const std::string& text, const std::string& hub_name) {
    return fmt::format("[{}](https://huggingface.co/{})", code_span(text), hub_name);
  };
  const std::string name = model.hub_name.empty() ? code_span(model.name) : page(model.name, model.hub_name);
  if (model.adapter_hub_name.empty()) return name;
  return fmt::format("{} (adapter {})", name, page(model.adapter_hub_name, model.adapter_hub_name));
}

std::string front_matter(const MoePlan& moe) {
  std::set<std::string> ids;  // two revisions of one model are one entry
  for (const auto& [location, model] : moe.opened)
    for (const std::string& id : {model->hub_name, model->adapter_hub_name})
      if (!id.empty()) ids.insert(id);
  std::string out = "---\n";
  if (!ids.empty()) {
    out += "base_model:\n";
    for (const std::string& id : ids) out += fmt::format("- {}\n", yaml_string(id));
  }
  out += "library_name: transformers\ntags:\n- moe\n- frankenmoe\n- merge\n- moerge\n";
  for (const std::string& id : ids) out += fmt::format("- {}\n", yaml_string(id));
  return out + "---\n\n";
}

}  // namespace

std::string model_card(const MoePlan& moe, const std::string& name) {
  std::string out = front_matter(moe);
  std::string title = name;
  std::ranges::replace(title, '\n', ' ');
  out += fmt::format("# {}\n\n", title);
  out += fmt::format(
      "A {} mixture of {} expert{} with {} parameters, {} of them active for a token ({} expert{} per "
      "token), made with moerge.\n\n",
      moe.output->name, moe.models.experts.size(), moe.models.experts.size() == 1 ? "" : "s",
      human_count(moe.total_parameters), human_count(moe.active_parameters), moe.config.experts_per_token,
      moe.config.experts_per_token == 1 ? "" : "s");
  out += fmt::format("Attention, norms and embeddings come from {}; the FFN of every layer from:\n\n",
                     link(*moe.models.base));
  for (size_t e = 0; e < moe.models.experts.size(); e++)
    out += fmt::format("{}. {} ({})\n", e, link(*moe.models.experts[e]),
                       describe_prompts(moe.config.experts[e]));
  for (size_t e = 0; e < moe.models.shared_experts.size(); e++)
    out +=
        fmt::format("\nEvery token also passes through the shared expert {}, {}.\n",
                    link(*moe.models.shared_experts[e]), describe_sharing(moe, moe.config.shared_experts[e]));
  out += fmt::format("\nRouters: gate_mode {}. Weights: {}.", code_span(moe.config.gate_mode),
                     info(moe.dtype).torch);
  if (moe.chat_template) out += fmt::format(" Chat template: {}.", code_span(moe.chat_template->origin));
  out += "\n\n## Configuration\n\n";
  out += code_block("yaml", moe.config.yaml);
  out += "\n## Usage\n\n";
  const char* trust = moe.output->remote_code ? ", trust_remote_code=True" : "";
  if (moe.output->remote_code)
    out +=
        "The code of this family is not part of transformers: `trust_remote_code` lets it be fetched from "
        "the "
        "Hub.\n\n";
  out += code_block(
      "python",
      fmt::format("from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                  "model_id = {0}  # this folder, or the repository it was uploaded to\n"
                  "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
                  "model = AutoModelForCausalLM.from_pretrained(model_id, torch_dtype=\"auto\"{1})\n"
                  "inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n"
                  "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n",
                  yaml_string(name), trust));
  return out;
}

}  // namespace moerge
