#include "moerge/moe/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/card_source.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/mixture.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/merge_recipe.h"
#include "moerge/plan/model_folder.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMixtureYaml = "mergekit_moe_config.yml";
constexpr const char* kMergeYaml = "mergekit_config.yml";
constexpr std::string_view kNoGguf =
    "granitemoeshared";  // the family that moerge writes and llama.cpp has not

CardText operator+(CardText a, const CardText& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
CardText sentence(std::string text) { return {card_text(std::move(text))}; }

std::string plural(int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

// config.json's own word for what it is.
std::string class_name(const Json& config) {
  const auto classes = config.find("architectures");
  if (classes != config.end() && classes->is_array() && !classes->empty() && (*classes)[0].is_string())
    return (*classes)[0].get<std::string>();
  const auto type = config.find("model_type");
  return type != config.end() && type->is_string() ? type->get<std::string>() : "";
}

// "Mixtral", "Qwen MoE"; of a family that moerge does not write, the class without its task.
std::string family_name(const Json& config) {
  for (const OutputArchitecture* output : output_architectures())
    if (config.value("model_type", Json()) == output->architecture->model_type)
      return std::string(output->name);
  std::string name = class_name(config);
  constexpr std::string_view kTask = "ForCausalLM";
  if (name.ends_with(kTask)) name.resize(name.size() - kTask.size());
  return name;
}

// "a", or "an" before a vowel's sound; a hostile name gets one of them.
std::string with_article(const std::string& name) {
  const bool vowel = !name.empty() && std::string_view("AEIOaeio").find(name[0]) != std::string_view::npos;
  return (vowel ? "An " : "A ") + name;
}

std::string type_name(DType dtype) {
  return std::string(info(dtype).torch.empty() ? info(dtype).name() : info(dtype).torch);
}

// What headers and config.json say together.
struct Numbers {
  std::optional<ModelConfig> config;  // of a family that moerge reads
  int64_t parameters = 0, active = 0, bytes = 0;
  std::string type;  // of most of the bytes

  explicit Numbers(const CardInput& input) {
    try {
      config = parse_model_config(input.config, "config.json");
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
    }
    std::map<std::string, int64_t> of_type;
    for (const TensorSpec& spec : input.tensors) {
      parameters += spec.elements();
      bytes += spec.bytes();
      of_type[type_name(spec.dtype)] += spec.bytes();
    }
    if (!of_type.empty())
      type = std::ranges::max_element(of_type, {}, [](const auto& entry) { return entry.second; })->first;
    active = parameters;
    if (is_mixture()) {
      const int64_t idle = std::max<int64_t>(0, config->experts - config->experts_per_token);
      active -= std::min(active, idle * 3 * config->ffn * config->hidden * config->layers);
    }
  }
  bool is_mixture() const { return config && config->experts > 0; }
};

CardTable numbers_table(const CardInput& input, const Numbers& numbers) {
  CardTable table = {.columns = {"Architecture", "Parameters"}};
  CardText row = {card_code(class_name(input.config)), card_text(human_count(numbers.parameters))};
  const auto add = [&](const char* column, std::string value) {
    table.columns.emplace_back(column);
    row.push_back(card_text(std::move(value)));
  };
  if (numbers.is_mixture()) {
    add("Active per token", human_count(numbers.active));
    add("Experts", std::to_string(numbers.config->experts));
    add("Experts per token", std::to_string(numbers.config->experts_per_token));
  }
  if (numbers.config) {
    add("Layers", std::to_string(numbers.config->layers));
    add("Context", std::to_string(numbers.config->max_positions));
  }
  add("Type", numbers.type);
  add("Size", human_bytes(numbers.bytes));
  table.rows.push_back(std::move(row));
  return table;
}

// A model's name with the pages of its repositories.
CardText linked(const std::string& reference, const ModelLocation& location) {
  CardText out = {card_link(reference, location.hub_name)};
  if (!location.adapter_hub_name.empty())
    out = out + CardText{card_text(" (adapter "),
                         card_link(location.adapter_hub_name, location.adapter_hub_name), card_text(")")};
  return out;
}

// The models that a card names: their ids and licences are gathered on the way.
class Sources {
 public:
  explicit Sources(const Locate& locate) : locate_(locate) {}

  CardText name(const std::string& reference) {
    const ModelLocation location = locate_(reference);
    add(reference, location.hub_name, location.path);
    if (!location.adapter.empty() || !location.adapter_hub_name.empty())
      add(location.adapter_hub_name.empty() ? reference : location.adapter_hub_name,
          location.adapter_hub_name, location.adapter);
    return linked(reference, location);
  }

  void finish(FolderCard& out) {
    out.card.base_models = ids_;
    out.card.tags.insert(out.card.tags.end(), ids_.begin(), ids_.end());
    AgreedLicense agreed = agree_on_license(licenses_);
    out.card.license = std::move(agreed.license);
    if (!agreed.why_not.empty())
      out.no_license = fmt::format(
          "README.md states no license: {} (\"moerge card FOLDER --license ID\" adds one)", agreed.why_not);
  }

 private:
  void add(const std::string& name, const std::string& hub_name, const fs::path& folder) {
    if (!hub_name.empty() && std::ranges::find(ids_, hub_name) == ids_.end()) ids_.push_back(hub_name);
    const auto same = [&](const LicenseSource& known) {
      return known.folder == folder && known.hub_name == hub_name && (!folder.empty() || known.name == name);
    };
    std::error_code ignored;
    if (std::ranges::none_of(licenses_, same))
      licenses_.push_back(
          {.name = name, .hub_name = hub_name, .folder = fs::is_directory(folder, ignored) ? folder : ""});
  }

  const Locate& locate_;
  std::vector<std::string> ids_;  // as the YAML names them
  std::vector<LicenseSource> licenses_;
};

// ----------------------------------------------------------------------------------------- how to use it

CardSection transformers_usage(const CardInput& input) {
  // A family whose code is not part of transformers.
  const bool remote = input.config.contains("auto_map");
  CardSection out = {.heading = "transformers"};
  if (remote)
    out.paragraphs.push_back(sentence("The code of this family is not part of transformers: ") +
                             CardText{card_code("trust_remote_code")} +
                             sentence(" lets it be fetched from the Hub."));
  const std::string id = fmt::format(
      "model_id = {}  # {}\n", quoted_string(input.repository.empty() ? input.title : input.repository),
      input.repository.empty() ? "this folder, or the repository it was uploaded to"
                               : "or a folder that it was downloaded to");
  const char* const trust = remote ? ", trust_remote_code=True" : "";
  if (input.chat_template)
    out.blocks.push_back(
        {"python",
         "from transformers import pipeline\n\n" + id +
             fmt::format("chat = pipeline(\"text-generation\", model=model_id, torch_dtype=\"auto\"{})\n",
                         trust) +
             "messages = [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]\n"
             "answer = chat(messages, max_new_tokens=256)[0][\"generated_text\"][-1]\n"
             "print(answer[\"content\"])\n"});
  else
    out.blocks.push_back(
        {"python",
         "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n" + id +
             fmt::format("tokenizer = AutoTokenizer.from_pretrained(model_id{0})\n"
                         "model = AutoModelForCausalLM.from_pretrained(model_id, torch_dtype=\"auto\"{0})\n",
                         trust) +
             "inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n"
             "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n"});
  return out;
}

CardSection llama_usage(const CardInput& input, bool is_mixture) {
  const size_t slash = input.repository.find('/');
  const std::string folder =
      shell_word(slash == std::string::npos ? input.title : input.repository.substr(slash + 1));
  CardSection out = {.heading = "moerge and llama.cpp"};
  out.paragraphs.push_back(sentence(
      fmt::format("Talk with the folder's model in the terminal{}, or make a GGUF file of it:",
                  is_mixture ? " (each word in the colour of its expert with --show-routing)" : "")));
  out.blocks.push_back({"sh", fmt::format("moerge chat {0}\n"
                                          "moerge gguf {0} model.Q4_K_M.gguf --type q4_k_m\n"
                                          "llama-cli -m model.Q4_K_M.gguf\n",
                                          folder)});
  return out;
}

std::vector<CardSection> usage(const CardInput& input, const Numbers& numbers) {
  std::vector<CardSection> out = {transformers_usage(input)};
  if (numbers.config && numbers.config->model_type != kNoGguf)
    out.push_back(llama_usage(input, numbers.is_mixture()));
  return out;
}

// --------------------------------------------------------------------------------------- kinds of models

// "5 prompts, 1 negative, text of a.txt": what an expert's row in the routers is made of.
CardText describe_texts(const ExpertConfig& expert) {
  std::vector<std::string> parts;
  if (!expert.positive_prompts.empty() || expert.data.empty())
    parts.push_back(expert.positive_prompts.empty() ? "no prompts"
                                                    : plural(std::ssize(expert.positive_prompts), "prompt"));
  if (!expert.negative_prompts.empty() && !(expert.positive_prompts.empty() && expert.data.empty()))
    parts.push_back(fmt::format("{} negative", expert.negative_prompts.size()));
  CardText out = sentence(fmt::format("{}", fmt::join(parts, ", ")));
  for (size_t i = 0; i < expert.data.size(); i++)
    out = out + CardText{card_text(i > 0           ? ", "
                                   : parts.empty() ? "text of "
                                                   : ", text of "),
                         card_code(public_name(expert.data[i]))};
  return out;
}

bool routes_shared_experts(const Json& config) {
  for (const OutputArchitecture* output : output_architectures())
    if (config.value("model_type", Json()) == output->architecture->model_type)
      return output->routes_shared_experts();
  return false;
}

void describe_mixture(const CardInput& input, const Numbers& numbers, Sources& sources, Card& card) {
  const MoeConfig& moe = *input.mixture;
  const int64_t kept = std::max<int64_t>(0, numbers.config->experts - std::ssize(moe.experts));
  const CardText base = sources.name(moe.base_model);
  CardList experts = {.intro = {}, .first = kept};
  if (kept == 0)
    experts.intro = sentence("Attention, norms and embeddings come from ") + base +
                    sentence("; the FFN of every layer from:");
  else
    experts.intro =
        base + sentence(fmt::format(" with its {}, as they were, and further ones whose FFNs come from:",
                                    count_experts(kept)));
  for (const ExpertConfig& expert : moe.experts)
    experts.models.push_back({sources.name(expert.source_model), describe_texts(expert)});
  card.models.push_back(std::move(experts));
  for (const ExpertConfig& expert : moe.shared_experts) {
    CardText text =
        sentence("Every token also passes through the shared expert ") + sources.name(expert.source_model);
    if (routes_shared_experts(input.config))
      text = text + sentence(", weighed for every token by a router of its own (") + describe_texts(expert) +
             sentence(").");
    else
      text = text + sentence(", added for every token.");
    card.remarks.push_back(std::move(text));
  }
  CardText remark = CardText{card_text("Routers: gate_mode "), card_code(moe.gate_mode),
                             card_text(fmt::format(". Weights: {}.", numbers.type))};
  if (const std::string origin = chat_template_origin(moe); !origin.empty())
    remark = remark + CardText{card_text(" Chat template: "), card_code(origin), card_text(".")};
  card.remarks.push_back(std::move(remark));
  card.configuration = public_yaml(moe);
}

void describe_merge(const MergeRecipe& recipe, Sources& sources, Card& card) {
  CardList models = {.intro = sentence("Merged from:")};
  if (!recipe.method.empty())
    models.intro =
        CardText{card_text("Merged with the method "), card_code(recipe.method), card_text(" from:")};
  for (const MergedModel& model : recipe.models)
    models.models.push_back({sources.name(model.reference),
                             model.statements.empty()
                                 ? CardText()
                                 : sentence(fmt::format("{}", fmt::join(model.statements, ", ")))});
  card.models.push_back(std::move(models));
}

std::string opening(const CardInput& input, const Numbers& numbers) {
  const std::string parameters = human_count(numbers.parameters);
  std::string out = with_article(family_name(input.config));
  if (numbers.is_mixture())
    out += fmt::format(" mixture of {} with {} parameters, {} of them active for a token ({} per token)",
                       plural(numbers.config->experts, "expert"), parameters, human_count(numbers.active),
                       plural(numbers.config->experts_per_token, "expert"));
  else
    out += fmt::format(" model with {} parameters", parameters);
  if (input.mixture || !input.merge.empty())
    out += input.mergekit ? ", made with mergekit" : ", made with moerge";
  return out + ".";
}

bool is_grown(const CardInput& input, const Numbers& numbers) {
  return input.mixture && numbers.is_mixture() &&
         numbers.config->experts > std::ssize(input.mixture->experts);
}

std::string read_small(const fs::path& file) {
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) ? read_file(file, kMaxMoeConfig) : "";
}

// mergekit names itself in the index of shards and in its card; a folder with one file of weights has only
// transformers' version in config.json, which moerge drops.
bool made_by_mergekit(const fs::path& folder, const Json& config) {
  if (const fs::path index = folder / kShardIndex; fs::exists(index)) {
    constexpr std::string_view kKeep[] = {"metadata", "mergekit_version"};
    const Json json = parse_json_only(kKeep, read_file(index, 512 << 20), index.string());
    const auto metadata = json.find("metadata");
    if (metadata != json.end() && metadata->is_object() && metadata->contains("mergekit_version"))
      return true;
  }
  const std::string readme = read_readme(folder);
  const std::optional<YamlNode> front = read_front_matter(readme);
  const std::vector<std::string> tags =
      front ? front_matter_list(*front, "tags") : std::vector<std::string>();
  if (std::ranges::find(tags, "mergekit") != tags.end()) return true;
  return config.contains("transformers_version") && card_state(readme) == CardState::foreign;
}

}  // namespace

CardInput read_card_input(const fs::path& folder, std::vector<std::string>& notes) {
  CardInput input = {
      .title = folder_name(folder), .config = read_json(folder / "config.json"), .tensors = {}};
  if (!input.config.is_object())
    fail(ErrorKind::input, "{}: should be a JSON object", (folder / "config.json").string());
  const Checkpoint checkpoint(folder);
  for (const StoredTensor& tensor : checkpoint.tensors()) input.tensors.push_back(tensor.spec);
  const auto note = [&](const Error& error, std::string_view consequence) {
    if (error.kind() == ErrorKind::interrupted) throw error;
    notes.push_back(fmt::format("{}: {}", error.message(), consequence));
  };
  try {
    input.chat_template = find_chat_template(folder).has_value();
  } catch (const Error& error) {
    note(error, "the card shows a plain prompt");
  }
  const fs::path moe = folder / kMixtureYaml, merge = folder / kMergeYaml;
  if (const std::string yaml = read_small(moe); !yaml.empty()) {
    try {
      input.mixture = parse_finished_config(yaml, moe.string());
    } catch (const Error& error) {
      note(error, "the card names no experts");
    }
  } else {
    input.merge = read_small(merge);
    input.merge_file = merge.string();
  }
  input.mergekit = !input.merge.empty() || (input.mixture && made_by_mergekit(folder, input.config));
  return input;
}

FolderCard make_card(const CardInput& input, const Locate& locate) {
  const Numbers numbers(input);
  FolderCard out = {.card = {.title = input.title, .library_name = "transformers"}};
  Card& card = out.card;
  Sources sources(locate);
  const bool mixture = input.mixture && numbers.is_mixture(),
             by_mergekit = input.mergekit && !is_grown(input, numbers);
  if (mixture || !input.merge.empty()) card.base_model_relation = "merge";
  if (mixture)
    card.tags = {"moe", "frankenmoe", "merge", by_mergekit ? "mergekit" : "moerge"};
  else if (!input.merge.empty())
    card.tags = {"merge", "mergekit"};
  else if (numbers.is_mixture())
    card.tags = {"moe"};
  CardInput shown = input;
  shown.mergekit = by_mergekit;
  card.intro.push_back(sentence(opening(shown, numbers)));
  if (mixture) {
    describe_mixture(input, numbers, sources, card);
  } else if (!input.merge.empty()) {
    try {
      describe_merge(parse_merge_recipe(input.merge, input.merge_file), sources, card);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      out.notes.push_back(error.message() + ": the card names no models");
    }
    card.configuration = input.merge;
  }
  card.numbers = numbers_table(input, numbers);
  card.usage = usage(input, numbers);
  sources.finish(out);
  return out;
}

FolderCard moe_card(const MoePlan& moe, const std::string& name, bool with_tokenizer) {
  CardInput input = {
      .title = name, .config = moe.model_config, .tensors = moe.plan.specs(), .mixture = moe.config};
  try {
    input.chat_template = with_tokenizer && has_tokenizer(*moe.models.base) &&
                          (moe.chat_template || find_chat_template(*moe.models.base).has_value());
  } catch (const Error& error) {  // files that are copied as they are
    if (error.kind() == ErrorKind::interrupted) throw;
  }
  std::map<std::string, ModelLocation> places;
  const auto add = [&](const std::string& reference, const Model* model) {
    for (const auto& [location, opened] : moe.opened)
      if (opened.get() == model) places[reference] = location;
  };
  add(moe.config.base_model, moe.models.base);
  for (size_t i = 0; i < moe.models.experts.size(); i++)
    add(moe.config.experts[i].source_model, moe.models.experts[i]);
  for (size_t i = 0; i < moe.models.shared_experts.size(); i++)
    add(moe.config.shared_experts[i].source_model, moe.models.shared_experts[i]);
  return make_card(input, [&](const std::string& reference) { return places[reference]; });
}

std::string model_card(const MoePlan& moe, const std::string& name) {
  return render_card(moe_card(moe, name, true).card);
}

std::string expert_card(const ExtractPlan& extract, const std::string& name) {
  const Model& model = *extract.model;
  CardInput input = {.title = name, .config = model.config.raw, .tensors = extract.plan.specs()};
  try {
    input.chat_template = find_chat_template(model).has_value();
  } catch (const Error& error) {  // files that are copied as they are
    if (error.kind() == ErrorKind::interrupted) throw;
  }
  const Numbers numbers(input);
  FolderCard out = {.card = {.title = name, .library_name = "transformers", .tags = {"moerge"}}};
  const Locate locate = [&](const std::string&) {
    return ModelLocation{.path = model.path,
                         .hub_name = model.hub_name,
                         .adapter = {},
                         .adapter_hub_name = model.adapter_hub_name};
  };
  Sources sources(locate);
  out.card.intro.push_back(
      sentence(fmt::format("A dense {} model with {} parameters: {} of the mixture ",
                           model.architecture->model_type, human_count(extract.parameters),
                           describe_origin(*model.origin))) +
      sources.name(model.name) +
      sentence(fmt::format(", with its attention, norms and embeddings, extracted with moerge. Weights: {}.",
                           info(extract.dtype).torch)));
  out.card.numbers = numbers_table(input, numbers);
  out.card.usage = usage(input, numbers);
  sources.finish(out);
  return render_card(out.card);
}

}  // namespace moerge
