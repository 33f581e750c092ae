#include "moerge/cli/merge_source.h"

#include <map>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/plan/model_folder.h"
#include "moerge/plan/source_bytes.h"

namespace moerge {

OpenModel open_models_of(const std::filesystem::path& yaml_folder, ModelFetcher& fetcher) {
  const auto opened = std::make_shared<std::map<ModelLocation, std::shared_ptr<const Model>>>();
  return [opened, yaml_folder, &fetcher](const std::string& reference) {
    const ModelLocation location = canonical_location(fetcher.look(reference, yaml_folder));
    std::shared_ptr<const Model>& model = (*opened)[location];
    if (!model) model = std::make_shared<const Model>(reference, location, Families::any);
    return OpenedModel{model};
  };
}

MergeOptions merge_options(const SourceOptions& options) {
  return {.allow_mixed = options.allow_crimes, .seed = static_cast<uint64_t>(options.seed)};
}

bool makes_merge(const std::filesystem::path& yaml) {
  const std::string text = read_file(yaml, kMaxMergeConfig);
  const std::vector<YamlNode> documents = parse_yaml_documents(text, yaml.string());
  if (documents.size() == 1) return is_merge_config(documents.front());
  return !documents.empty() && !MergeStages(text, yaml.string()).makes_mixture();
}

std::unique_ptr<MergePlan> plan_merge_yaml(const std::filesystem::path& yaml, const MergeOptions& options,
                                           const std::filesystem::path& out, Fetch fetch,
                                           ModelFetcher& fetcher) {
  return plan_merge_text(read_file(yaml, kMaxMergeConfig), yaml.string(), yaml.parent_path(), options, out,
                         fetch, fetcher);
}

std::unique_ptr<MergePlan> plan_merge_text(const std::string& yaml, const std::string& file,
                                           const std::filesystem::path& folder, const MergeOptions& options,
                                           const std::filesystem::path& out, Fetch fetch,
                                           ModelFetcher& fetcher) {
  const MergeStages stages(yaml, file);
  if (stages.makes_mixture())
    fail(ErrorKind::config, "{}: this makes a mixture of experts: \"moerge moe\" does that", file);
  const auto plan = [&] {
    std::vector<std::string> warnings;
    std::unique_ptr<MergePlan> merge = plan_merge(
        stages.result(), stages.with_stages(open_models_of(folder, fetcher), options, warnings), options);
    merge->warnings.insert(merge->warnings.begin(), warnings.begin(), warnings.end());
    return merge;
  };
  std::unique_ptr<MergePlan> merge = plan();
  if (!fetcher.any() || fetch == Fetch::headers) return merge;
  const int64_t result = out.empty() ? 0 : needed_space(merge->plan, {});
  if (fetch == Fetch::whole) {
    fetcher.fetch_all(out, result);
    return plan();
  }
  SourceBytes needed;
  needed.add(merge->plan);
  fetcher.fetch_ranges(needed, out, result);
  return merge;
}

FolderCard merge_card(const MergePlan& merge, const std::string& name, bool with_tokenizer) {
  CardInput input = {.title = name,
                     .config = merge.model_config,
                     .tensors = merge.plan.specs(),
                     .merge = merge.config.yaml,
                     .merge_file = merge.config.file};
  try {
    input.chat_template = with_tokenizer && has_tokenizer(*merge.tokenizer) &&
                          (merge.chat_template || find_chat_template(*merge.tokenizer).has_value());
  } catch (const Error& error) {  // files that are copied as they are
    if (error.kind() == ErrorKind::interrupted) throw;
  }
  return make_card(input, [&](const std::string& reference) -> ModelLocation {
    for (const Model* model : merge.sources)
      if (model->name == reference)
        return {
            .path = model->path, .hub_name = model->hub_name, .adapter_hub_name = model->adapter_hub_name};
    return {};
  });
}

}  // namespace moerge
