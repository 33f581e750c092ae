#include "moerge/moe/model_folder.h"

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/sink.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/plan/execute.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kSmallFiles = 64 << 20;  // tokenizer, configuration, card: generously

void run_weights(const Plan& plan, TensorSink& sink, const BuildOptions& options,
                 const std::function<void()>& check, Reporter& reporter, const char* label) {
  Progress progress(reporter, label, plan.totals().bytes);
  execute(plan, sink, {.threads = options.threads, .progress = &progress, .check = check});
  progress.finish();
}

}  // namespace

std::string folder_name(const fs::path& out) {
  const fs::path target = fs::weakly_canonical(out);
  return (target.has_filename() ? target : target.parent_path()).filename().string();
}

int64_t needed_space(const Plan& plan) { return plan.totals().bytes + kSmallFiles; }

void check_folder(const Plan& plan, const std::vector<const Model*>& sources, const BuildOptions& options) {
  check_output_folder(options.out, options.overwrite);
  for (const Model* model : sources)
    if (is_within(options.out, model->path) || is_within(model->path, options.out))
      fail(ErrorKind::usage,
           "the output {} and the model \"{}\" lie in one another: choose another output folder",
           options.out.string(), model->name);
  const int64_t needed = needed_space(plan), free = free_space(options.out);
  if (needed > free)
    fail(ErrorKind::io, "not enough space for {}: {} needed, {} free", options.out.string(),
         human_bytes(needed), human_bytes(free));
}

void write_model_folder(const FolderContent& content, const BuildOptions& options,
                        const std::function<void()>& check, Reporter& reporter) {
  OutputFolder folder(options.out, options.overwrite);
  SafetensorsSink sink(folder.path(), options.max_shard_bytes);
  run_weights(content.plan, sink, options, check, reporter, "weights");
  write_file(folder.path() / "config.json", content.config.dump(2) + "\n");
  for (const auto& [name, text] : content.files) write_file(folder.path() / name, text);
  if (options.copy_tokenizer) write_tokenizer_files(content.tokenizer, folder.path(), content.chat_template);
  if (options.write_card) write_file(folder.path() / "README.md", content.card);
  if (options.verify) {
    const Checkpoint written(folder.path());
    ComparingSink compare(written);
    run_weights(content.plan, compare, options, check, reporter, "verified");
    reporter.info(
        fmt::format("every one of the {} tensors equals what it was made of", content.plan.steps.size()));
  }
  check_interrupted();
  folder.commit();
}

}  // namespace moerge
