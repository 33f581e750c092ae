#include "moerge/moe/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/model/mixture.h"
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

// Repositories that a model came from; two revisions of one are one.
void add_ids(const Model& model, std::set<std::string>& ids) {
  for (const std::string& id : {model.hub_name, model.adapter_hub_name})
    if (!id.empty()) ids.insert(id);
}

std::string front_matter(const std::set<std::string>& ids, const std::vector<std::string>& tags) {
  std::string out = "---\n";
  if (!ids.empty()) {
    out += "base_model:\n";
    for (const std::string& id : ids) out += fmt::format("- {}\n", yaml_string(id));
  }
  out += "library_name: transformers\ntags:\n";
  for (const std::string& tag : tags) out += fmt::format("- {}\n", tag);
  for (const std::string& id : ids) out += fmt::format("- {}\n", yaml_string(id));
  return out + "---\n\n";
}

std::string heading(std::string title) {
  std::ranges::replace(title, '\n', ' ');
  return fmt::format("# {}\n\n", title);
}

// `remote_code`: the family is not part of transformers.
std::string usage(const std::string& name, bool remote_code = false) {
  std::string out = "\n## Usage\n\n";
  if (remote_code)
    out +=
        "The code of this family is not part of transformers: `trust_remote_code` lets it be fetched from "
        "the Hub.\n\n";
  return out +
         code_block(
             "python",
             fmt::format("from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                         "model_id = {0}  # this folder, or the repository it was uploaded to\n"
                         "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
                         "model = AutoModelForCausalLM.from_pretrained(model_id, torch_dtype=\"auto\"{1})\n"
                         "inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n"
                         "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n",
                         yaml_string(name), remote_code ? ", trust_remote_code=True" : ""));
}

}  // namespace

std::string model_card(const MoePlan& moe, const std::string& name) {
  std::set<std::string> ids;
  for (const auto& [location, model] : moe.opened) add_ids(*model, ids);
  std::string out = front_matter(ids, {"moe", "frankenmoe", "merge", "moerge"}) + heading(name);
  const int64_t kept = moe.models.kept_experts(), experts = kept + std::ssize(moe.models.experts);
  out += fmt::format(
      "A {} mixture of {} expert{} with {} parameters, {} of them active for a token ({} expert{} per "
      "token), made with moerge.\n\n",
      moe.output->name, experts, experts == 1 ? "" : "s", human_count(moe.total_parameters),
      human_count(moe.active_parameters), moe.config.experts_per_token,
      moe.config.experts_per_token == 1 ? "" : "s");
  out += kept == 0
             ? fmt::format("Attention, norms and embeddings come from {}; the FFN of every layer from:\n\n",
                           link(*moe.models.base))
             : fmt::format("{} with its {}, as they were, and further ones whose FFNs come from:\n\n",
                           link(*moe.models.base), count_experts(kept));
  for (size_t e = 0; e < moe.models.experts.size(); e++)
    out += fmt::format("{}. {} ({})\n", kept + static_cast<int64_t>(e), link(*moe.models.experts[e]),
                       describe_prompts(moe, e));
  for (size_t e = 0; e < moe.models.shared_experts.size(); e++)
    out += fmt::format("\nEvery token also passes through the shared expert {}, {}.\n",
                       link(*moe.models.shared_experts[e]), describe_sharing(moe, e));
  out += fmt::format("\nRouters: gate_mode {}. Weights: {}.", code_span(moe.config.gate_mode),
                     info(moe.dtype).torch);
  if (moe.chat_template) out += fmt::format(" Chat template: {}.", code_span(moe.chat_template->origin));
  out += "\n\n## Configuration\n\n";
  out += code_block("yaml", public_yaml(moe.config));
  return out + usage(name, moe.output->remote_code);
}

std::string expert_card(const ExtractPlan& extract, const std::string& name) {
  const Model& model = *extract.model;
  std::set<std::string> ids;
  add_ids(model, ids);
  std::string out = front_matter(ids, {"moerge"}) + heading(name);
  out += fmt::format(
      "A dense {} model with {} parameters: {} of the mixture {}, with its attention, norms and embeddings, "
      "extracted with moerge. Weights: {}.\n",
      model.architecture->model_type, human_count(extract.parameters), describe_origin(*model.origin),
      link(model), info(extract.dtype).torch);
  return out + usage(name);
}

}  // namespace moerge
