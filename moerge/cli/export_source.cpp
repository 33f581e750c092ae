#include "moerge/cli/export_source.h"

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/merge_source.h"
#include "moerge/cli/route_texts.h"
#include "moerge/hub/card_source.h"
#include "moerge/model/quantization.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// What the YAML calls the experts of the mixture with this config.json, when it names each.
std::vector<std::string> expert_names(const Json& model, const MoeConfig& config) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"})
    if (model.contains(key) && model[key] != std::ssize(config.experts)) return {};
  const ExpertNames names(0, config);
  std::vector<std::string> out;
  for (int64_t i = 0; i < names.count(); i++) out.push_back(names.short_name(i));
  return out;
}

// Of a folder that was made of a YAML, which lies in it.
std::vector<std::string> expert_names(const fs::path& folder, const Json& model) {
  const fs::path yaml = folder / "mergekit_moe_config.yml";
  if (!fs::is_regular_file(yaml)) return {};
  try {
    return expert_names(model, parse_finished_config(read_file(yaml, kMaxMoeConfig), yaml.string()));
  } catch (const Error& error) {  // of use, but not needed
    if (error.kind() == ErrorKind::interrupted) throw;
    return {};
  }
}

// A folder as it is: every tensor a step of its own.
Plan plan_checkpoint(const Checkpoint& checkpoint) {
  Plan plan;
  for (const StoredTensor& tensor : checkpoint.tensors())
    plan.steps.push_back({tensor.spec, Concat{{{.source = &tensor, .noise_stream = {}}}}});
  return plan;
}

// The model's part of a name on the Hub, or the folder's own name.
std::string short_name(const fs::path& folder, const std::string& hub_name) {
  if (!hub_name.empty()) return hub_name.substr(hub_name.find('/') + 1);
  const fs::path whole = fs::weakly_canonical(folder);
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

// The GGUF file that a location stands for, if it does.
std::optional<fs::path> gguf_at(const ModelLocation& location) {
  return fs::is_directory(location.path) ? find_gguf(location.path) : location.path;
}

}  // namespace

std::string source_name(const ModelLocation& location) {
  const std::optional<fs::path> gguf = gguf_at(location);
  std::string name = gguf ? gguf->stem().string() : short_name(location.path, location.hub_name);
  if (location.expert)
    name +=
        *location.expert == kSharedExpert ? "-shared-expert" : fmt::format("-expert-{}", *location.expert);
  if (!location.adapter.empty()) name += "-" + short_name(location.adapter, location.adapter_hub_name);
  return name;
}

bool is_yaml(const fs::path& path) { return path.extension() == ".yaml" || path.extension() == ".yml"; }

const FileType& wide_type(const Plan& plan) {
  const Step* first = nullptr;
  for (const Step& step : plan.steps)
    if (step.out.shape.size() >= 2 && (step.out.dtype == DType::bf16 || step.out.dtype == DType::f16) &&
        (!first || step.out.name < first->out.name))
      first = &step;
  return *parse_file_types(first && first->out.dtype == DType::bf16 ? "bf16" : "f16").front();
}

ExportSource describe_moe(const MoePlan& moe, const std::string& name) {
  return {.folder = moe.models.base->path,
          .config = moe.model_config,
          .card = model_card(moe, name),
          .name = name,
          .tokenizer = moe.models.base->gguf(),
          .chat_template = moe.chat_template ? std::optional(moe.chat_template->text) : std::nullopt,
          .where = moe.config.file,
          .expert_names = expert_names(moe.model_config, moe.config)};
}

ExportSource describe_merge(const MergePlan& merge, const fs::path& tokenizer_folder,
                            const std::string& name) {
  return {.folder = tokenizer_folder,
          .config = merge.model_config,
          .card = render_card(merge_card(merge, name, true).card),
          .name = name,
          .tokenizer = is_gguf_name(tokenizer_folder) ? merge.tokenizer->gguf() : nullptr,
          .chat_template = merge.chat_template,
          .where = merge.config.file};
}

struct OpenSource::State {
  State(const SourceOptions& options, Reporter& reporter) : fetcher(options, reporter) {}

  ModelFetcher fetcher;
  std::string name;
  std::vector<std::string> warnings;
  // Of a YAML.
  std::unique_ptr<MoePlan> moe;
  std::unique_ptr<PromptEncoder> encoder;
  std::unique_ptr<GateJob> job;
  std::unique_ptr<MergePlan> merge;  // instead: of a dense merge
  std::unique_ptr<TokenizerFolder> tokenizer;
  // Of a folder.
  fs::path folder;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;  // instead: a GGUF file, one expert, or weights computed from stored ones
  Plan plan;
  Json config;

  void open_yaml(const fs::path& file, const SourceOptions& options, int threads) {
    if (makes_merge(file)) {
      merge = plan_merge_yaml(file, merge_options(options), {}, options.fetch, fetcher);
      tokenizer = std::make_unique<TokenizerFolder>(*merge);
      name = file.stem().string();
      warnings = merge->warnings;
      return;
    }
    check_device(decoder_options(options, threads).device);
    moe = std::make_unique<MoePlan>(plan_yaml(file, options, Layout::per_expert, fetcher));
    encoder = make_encoder(*moe, options, threads);
    name = file.stem().string();
    warnings = moe->warnings;
  }

  void open_as_model(const std::string& source, const ModelLocation& location) {
    model = std::make_unique<Model>(source, location);
    config = model->config.raw;
    plan = plan_checkpoint(model->checkpoint);
  }

  // Of a model on the Hub the headers first: what cannot be written is not fetched.
  void open_model(const std::string& source, const SourceOptions& options) {
    open_location(source, fetcher.look(source, {}));
    if (!fetcher.any() || options.fetch == Fetch::headers) return;
    if (options.fetch == Fetch::used) {
      SourceBytes needed;
      needed.add(plan);
      return fetcher.fetch_ranges(needed, {}, 0);
    }
    fetcher.fetch_all({}, 0);
    model.reset();
    checkpoint.reset();
    open_location(source, fetcher.look(source, {}));
  }

  void open_location(const std::string& source, const ModelLocation& location) {
    name = source_name(location);
    if (const std::optional<fs::path> gguf = gguf_at(location)) {
      ModelLocation file = location;
      file.path = *gguf;
      open_as_model(source, file);
    } else {
      open_folder(source, location);
    }
  }

  void open_folder(const std::string& source, const ModelLocation& location) {
    folder = fs::weakly_canonical(location.path);
    if (!folder.has_filename()) folder = folder.parent_path();
    config = read_json(folder / "config.json");
    if (!location.adapter.empty() || location.expert || (config.is_object() && find_quantization(config))) {
      open_as_model(source, location);
    } else {
      checkpoint = std::make_unique<Checkpoint>(folder);
      plan = plan_checkpoint(*checkpoint);
    }
  }
};

OpenSource::OpenSource(const std::string& source, const SourceOptions& options, int threads,
                       Reporter& reporter)
    : state_(std::make_unique<State>(options, reporter)) {
  if (!is_yaml(source))
    state_->open_model(source, options);
  else if (!fs::exists(source))
    fail(ErrorKind::usage, "SOURCE \"{}\": there is no such file", source);
  else
    state_->open_yaml(source, options, threads);
}

OpenSource::~OpenSource() = default;

void OpenSource::forget() { state_->fetcher.forget(); }

void OpenSource::forget_headers() { state_->fetcher.forget_headers(); }

const std::string& OpenSource::name() const { return state_->name; }
const Plan& OpenSource::plan() const {
  if (state_->moe) return state_->moe->plan;
  return state_->merge ? state_->merge->plan : state_->plan;
}
const std::vector<std::string>& OpenSource::warnings() const { return state_->warnings; }

ExportSource OpenSource::describe(const std::string& name) const {
  if (state_->moe) return describe_moe(*state_->moe, name);
  if (state_->merge) return describe_merge(*state_->merge, state_->tokenizer->path(), name);
  if (const Model* model = state_->model.get(); model && (model->gguf() || model->origin))
    return {.folder = model->path,
            .config = state_->config,
            .card = {},
            .name = name,
            .tokenizer = model->gguf(),
            .general = model->origin ? nullptr : model->gguf(),  // else it speaks of the whole mixture
            .where = model->path.string()};
  const fs::path card = state_->folder / "README.md";
  return {.folder = state_->folder,
          .config = state_->config,
          .card = fs::exists(card) ? read_file(card, kMaxCard) : "",
          .name = name,
          .where = state_->folder.string(),
          .expert_names = expert_names(state_->folder, state_->config)};
}

std::function<void()> OpenSource::start(Reporter& reporter) {
  if (!state_->moe) return {};
  state_->job = std::make_unique<GateJob>(*state_->moe, std::move(state_->encoder), reporter);
  return [job = state_->job.get()] { job->check(); };
}

void OpenSource::report(Reporter& reporter) const {
  if (state_->moe) report_routers(*state_->moe, reporter);
}

void write_source(OpenSource& source, const ExportPlan& plan, std::span<const OutputFile> files,
                  const ExportOptions& options, int threads, Reporter& reporter) {
  const std::function<void()> check = source.start(reporter);
  int64_t total = 0;
  for (const OutputFile& file : files)
    for (const TensorSpec& spec : file.specs) total += spec.bytes();
  Progress progress(reporter, "written", total);
  write_outputs(plan, files, options, {.threads = threads, .progress = &progress, .check = check});
  progress.finish();
  source.report(reporter);
}

}  // namespace moerge
