#include "moerge/merge/planner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "moerge/base/error.h"
#include "moerge/merge/embeddings.h"
#include "moerge/merge/output_config.h"
#include "moerge/model/tokenizer_files.h"

namespace moerge {
namespace {

// Everything that is wrong, with the kind of error that is the user's to mend first.
class Problems {
 public:
  void add(ErrorKind kind, const std::string& text) {
    if (exit_code(kind) > exit_code(kind_)) kind_ = kind;
    if (std::ranges::find(texts_, text) == texts_.end()) texts_.push_back(text);
  }
  void throw_if_any() const {
    if (!texts_.empty()) throw Error(kind_, fmt::format("{}", fmt::join(texts_, "\n")));
  }

 private:
  ErrorKind kind_ = ErrorKind::input;
  std::vector<std::string> texts_;
};

std::vector<TensorSpec> specs_of(const Checkpoint& checkpoint) {
  std::vector<TensorSpec> out;
  for (const StoredTensor& tensor : checkpoint.tensors()) out.push_back(tensor.spec);
  return out;
}

using Models = std::map<std::string, MergeModel>;

// All models; those that are merged come back with their layers.
Models open_models(MergePlan& merge, const OpenModel& open, bool with_layers) {
  Problems problems;
  Models models;
  const std::vector<std::string> merged = merge.config.models();
  for (const std::string& reference : merge.config.all_models()) {
    try {
      const OpenedModel opened = open(reference);
      const std::shared_ptr<const Model>& model = merge.opened[reference] = opened.model;
      for (const Model* source : opened.made_of.empty() ? std::vector{model.get()} : opened.made_of)
        if (std::ranges::find(merge.sources, source) == merge.sources.end()) merge.sources.push_back(source);
      if (std::ranges::find(merged, reference) == merged.end()) continue;
      models.emplace(reference, MergeModel{model.get(), with_layers ? ModelLayout(model->config.raw,
                                                                                  specs_of(model->checkpoint),
                                                                                  model->path.string())
                                                                    : ModelLayout()});
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      problems.add(error.kind(), error.message());
    } catch (const std::filesystem::filesystem_error& error) {
      problems.add(ErrorKind::io, fmt::format("model \"{}\": {}", reference, error.code().message()));
    }
  }
  problems.throw_if_any();
  return models;
}

void check_families(const MergePlan& merge, const Models& models, bool allow_mixed, const std::string& first,
                    Problems& problems, std::vector<std::string>& warnings) {
  const auto type_of = [](const MergeModel& model) { return model.model->config.model_type; };
  for (const auto& [reference, model] : models) {
    if (!model.layout.is_known())
      warnings.push_back(
          fmt::format("\"{}\": moerge does not know model_type \"{}\"; its layers were found by the names "
                      "of its tensors: {} that begin with \"{}\"",
                      reference, type_of(model), model.layout.layers(), model.layout.prefix()));
    if (type_of(model) == type_of(models.at(first)) || allow_mixed) continue;
    problems.add(ErrorKind::unsupported,
                 fmt::format("{}: \"{}\" is a {} and \"{}\" a {}: their weights mean different things "
                             "(--allow-crimes merges them all the same)",
                             merge.config.file, first, type_of(models.at(first)), reference, type_of(model)));
  }
}

void check_layers(const MergeConfig& config, const Models& models, Problems& problems) {
  for (const MergeSlice& slice : config.slices) {
    const MergeSource& first = slice.sources.front();
    for (const MergeSource& source : slice.sources) {
      const int64_t layers = models.at(source.model).layout.layers();
      if (source.layers && source.layers->second > layers)
        problems.add(ErrorKind::config,
                     fmt::format("{}: layer_range [{}, {}) goes beyond the {} layers of \"{}\"", source.place,
                                 source.layers->first, source.layers->second, layers, source.model));
      else if (!source.layers && layers != models.at(first.model).layout.layers())
        problems.add(ErrorKind::config,
                     fmt::format("{}: \"{}\" has {} layers, \"{}\" {}: \"slices\" says which of them belong "
                                 "together",
                                 source.place, source.model, layers, first.model,
                                 models.at(first.model).layout.layers()));
    }
  }
}

int64_t rows_of(const Model& model, const std::string& embedding) {
  const StoredTensor* tensor = model.checkpoint.find(embedding);
  return tensor ? tensor->rows() : 0;
}

// The vocabulary of the result, and every model's tensors with a row for each token in it.
void settle_vocabulary(MergePlan& merge, Models& models, const ModelLayout& layout) {
  const MergeConfig& config = merge.config;
  std::vector<VocabularyModel> listed;
  for (const std::string& reference : config.all_models()) {
    const Model& model = *merge.opened.at(reference);
    listed.push_back({reference, &model, rows_of(model, layout.embedding()), models.contains(reference)});
  }
  merge.vocabulary = merge_vocabularies(*config.tokenizer, config.base_model, listed);
  std::ranges::copy(merge.vocabulary->warnings, std::back_inserter(merge.warnings));
  std::set<std::string> names;
  for (const auto& [reference, model] : models)
    for (const StoredTensor& tensor : model.model->checkpoint.tensors())
      if (model.layout.is_by_token(tensor.spec.name)) names.insert(tensor.spec.name);
  for (const std::string& name : names) {
    ByTokenTensors tensors = {.stored = {}, .merged = {}, .base = merge.vocabulary->base};
    std::vector<const StoredTensor*> merged;
    for (const VocabularyModel& model : merge.vocabulary->models) {
      const StoredTensor* own = model.model->checkpoint.find(name);
      // A model without a head of its own uses its embeddings as one.
      tensors.stored.push_back(own ? own : model.model->checkpoint.find(layout.embedding()));
      tensors.merged.push_back(model.merged);
      if (model.merged && tensors.stored.back()) merged.push_back(tensors.stored.back());
    }
    const std::vector<std::optional<StoredTensor>> made =
        in_vocabulary(*merge.vocabulary, tensors, config.dtype.value_or(common_dtype(merged)));
    for (size_t m = 0; m < made.size(); m++)
      if (const auto model = models.find(merge.vocabulary->models[m].reference);
          model != models.end() && made[m])
        model->second.replaced[name] = *made[m];
  }
}

void make_steps(MergePlan& merge, MergedTensors made) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, DType> types;
  std::map<DType, int64_t> bytes;
  for (MergedTensor& tensor : made.tensors) {
    types[tensor.tensor.spec.name] = tensor.dtype;
    bytes[tensor.dtype] += byte_size(tensor.dtype, tensor.tensor.spec.elements());
    merge.parameters += tensor.tensor.spec.elements();
    tensors.push_back(std::move(tensor.tensor));
  }
  merge.result = Checkpoint::of_tensors(merge.config.file, std::move(tensors));
  for (const StoredTensor& tensor : merge.result.tensors())
    merge.plan.steps.push_back({{tensor.spec.name, types.at(tensor.spec.name), tensor.spec.shape},
                                Concat{{{.source = &tensor, .noise_stream = {}}}}});
  if (!bytes.empty())
    merge.dtype = std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; })->first;
}

}  // namespace

std::unique_ptr<MergePlan> plan_merge(MergeConfig config, const OpenModel& open,
                                      const MergeOptions& options) {
  auto merge = std::make_unique<MergePlan>();
  merge->config = std::move(config);
  merge->warnings = merge->config.warnings;
  Models models = open_models(*merge, open, true);
  // Whose config.json and tokenizer the result has.
  const std::string from = merge->config.models().front();
  Problems problems;
  check_families(*merge, models, options.allow_mixed, from, problems, merge->warnings);
  check_layers(merge->config, models, problems);
  problems.throw_if_any();
  if (merge->config.tokenizer) settle_vocabulary(*merge, models, models.at(from).layout);
  const MergeInput input = {.config = merge->config,
                            .models = models,
                            .seed = options.seed,
                            .truncate_embeddings = options.truncate_embeddings};
  MergedTensors made = make_merged_tensors(input);
  for (const std::string& problem : made.problems) problems.add(ErrorKind::config, problem);
  problems.throw_if_any();
  std::ranges::move(made.warnings, std::back_inserter(merge->warnings));
  merge->layers = made.layers;
  merge->model_config = make_output_config(input, models.at(from), made, merge->warnings);
  merge->tokenizer = models.at(from).model;
  if (merge->vocabulary) {
    merge->tokenizer = merge->vocabulary->tokenizer_model;
    for (const auto& [key, value] : merge->vocabulary->config_changes.items())
      if (value.is_null())
        merge->model_config.erase(key);
      else
        merge->model_config[key] = value;
  }
  merge->chat_template =
      choose_merge_template(merge->config, merge->opened, *merge->tokenizer, merge->warnings);
  merge->plan.seed = options.seed;
  make_steps(*merge, std::move(made));
  return merge;
}

std::unique_ptr<MergePlan> plan_state_dicts(MergeConfig config, const OpenModel& open,
                                            const MergeOptions& options) {
  auto merge = std::make_unique<MergePlan>();
  merge->config = std::move(config);
  merge->warnings = merge->config.warnings;
  Problems problems;
  if (!merge->config.whole_models)
    problems.add(ErrorKind::config,
                 fmt::format("{}: files of tensors have no layers: \"models\" is expected, not \"slices\"",
                             merge->config.file));
  for (const auto& [said, what] : {std::pair(merge->config.tokenizer.has_value(), "tokenizer"),
                                   std::pair(!merge->config.chat_template.empty(), "chat_template")})
    if (said)
      problems.add(ErrorKind::config, fmt::format("{}: files of tensors have no tokenizer: take \"{}\" away",
                                                  merge->config.file, what));
  problems.throw_if_any();
  const Models models = open_models(*merge, open, false);
  MergedTensors made = make_merged_tensors(
      {.config = merge->config, .models = models, .seed = options.seed, .missing = options.missing});
  for (const std::string& problem : made.problems) problems.add(ErrorKind::config, problem);
  problems.throw_if_any();
  std::ranges::move(made.warnings, std::back_inserter(merge->warnings));
  if (made.tensors.empty())
    fail(ErrorKind::config, "{}: there is no tensor that could be merged", merge->config.file);
  merge->plan.seed = options.seed;
  make_steps(*merge, std::move(made));
  return merge;
}

void write_merge_tokenizer(const MergePlan& merge, const std::filesystem::path& folder) {
  const std::string* chat_template = merge.chat_template ? &*merge.chat_template : nullptr;
  if (merge.vocabulary)
    write_merged_tokenizer(*merge.vocabulary, folder, chat_template);
  else
    write_tokenizer_files(*merge.tokenizer, folder, chat_template);
}

TokenizerFolder::TokenizerFolder(const MergePlan& merge) : path_(merge.tokenizer->path) {
  if (!merge.vocabulary && !merge.chat_template) return;
  made_ = std::make_unique<TemporaryFolder>("tokenizer");
  write_merge_tokenizer(merge, made_->path());
}

}  // namespace moerge
