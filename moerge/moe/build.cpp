#include "moerge/moe/build.h"

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/sink.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"
#include "moerge/plan/execute.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kSmallFiles = 64 << 20;  // tokenizer, configuration, card: generously

void run_weights(const MoePlan& moe, TensorSink& sink, const BuildOptions& options, const GateJob& job,
                 Reporter& reporter, const char* label) {
  Progress progress(reporter, label, moe.plan.totals().bytes);
  execute(moe.plan, sink, {.threads = options.threads, .progress = &progress, .check = [&] { job.check(); }});
  progress.finish();
}

}  // namespace

void check_build(const MoePlan& moe, const BuildOptions& options) {
  check_output_folder(options.out, options.overwrite);
  for (const auto& [location, model] : moe.opened)
    if (is_within(options.out, location.path) || is_within(location.path, options.out))
      fail(ErrorKind::usage,
           "the output {} and the model \"{}\" lie in one another: choose another output folder",
           options.out.string(), model->name);
  if (moe.chat_template && !options.copy_tokenizer)
    fail(ErrorKind::usage,
         "{}: a chat_template is written into the tokenizer's files, which --no-copy-tokenizer leaves out: "
         "take one of the two away",
         moe.config.chat_template.place);
  const int64_t needed = moe.plan.totals().bytes + kSmallFiles, free = free_space(options.out);
  if (needed > free)
    fail(ErrorKind::io, "not enough space for {}: {} needed, {} free", options.out.string(),
         human_bytes(needed), human_bytes(free));
}

std::vector<Collision> build_moe(MoePlan& moe, const BuildOptions& options,
                                 std::unique_ptr<PromptEncoder> encoder, Reporter& reporter) {
  check_build(moe, options);
  OutputFolder folder(options.out, options.overwrite);
  const GateJob job(moe, std::move(encoder), reporter);
  SafetensorsSink sink(folder.path(), options.max_shard_bytes);
  run_weights(moe, sink, options, job, reporter, "weights");
  write_file(folder.path() / "config.json", moe.model_config.dump(2) + "\n");
  write_file(folder.path() / "mergekit_moe_config.yml", moe.config.yaml);
  if (options.copy_tokenizer)
    write_tokenizer_files(*moe.models.base, folder.path(),
                          moe.chat_template ? &moe.chat_template->text : nullptr);
  if (options.write_card) {
    const fs::path target = fs::weakly_canonical(options.out);
    write_file(folder.path() / "README.md",
               model_card(moe, (target.has_filename() ? target : target.parent_path()).filename().string()));
  }
  if (options.verify) {
    const Checkpoint written(folder.path());
    ComparingSink compare(written);
    run_weights(moe, compare, options, job, reporter, "verified");
    reporter.info(
        fmt::format("every one of the {} tensors equals what it was made of", moe.plan.steps.size()));
  }
  check_interrupted();
  folder.commit();
  return moe.gate_mode->needs == GateNeeds::nothing
             ? std::vector<Collision>()
             : find_collisions(moe.gates->get(), std::ssize(moe.models.experts));
}

}  // namespace moerge
