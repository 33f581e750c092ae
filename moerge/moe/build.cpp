#include "moerge/moe/build.h"

#include <fmt/format.h>

#include <array>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/sink.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"
#include "moerge/plan/execute.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// What a model folder holds beside weights and config.json, taken from the base byte for byte.
constexpr std::array kTokenizerFiles = {"tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "generation_config.json"};

constexpr int64_t kSmallFiles = 64 << 20;  // tokenizer, configuration, card: generously

void copy_small_file(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  File target = File::create(to);
  copy_range(source.file(), 0, target, 0, std::ssize(source.bytes()));
}

void copy_base_files(const MoePlan& moe, const fs::path& folder) {
  for (const char* name : kTokenizerFiles)
    if (const fs::path file = moe.models.base->folder / name; fs::is_regular_file(file))
      copy_small_file(file, folder / name);
  // Chat templates beyond the default one lie in a folder of their own.
  const fs::path more = moe.models.base->folder / "additional_chat_templates";
  if (!fs::is_directory(more)) return;
  fs::create_directory(folder / more.filename());
  for (const fs::directory_entry& entry : fs::directory_iterator(more))
    if (entry.is_regular_file())
      copy_small_file(entry.path(), folder / more.filename() / entry.path().filename());
}

void run_weights(const MoePlan& moe, TensorSink& sink, const BuildOptions& options, const GateJob& job,
                 Reporter& reporter, const char* label) {
  Progress progress(reporter, label, moe.plan.totals().bytes);
  execute(moe.plan, sink, {.threads = options.threads, .progress = &progress, .check = [&] { job.check(); }});
  progress.finish();
}

}  // namespace

void check_build(const MoePlan& moe, const BuildOptions& options) {
  check_output_folder(options.out, options.overwrite);
  for (const auto& [folder, model] : moe.folders)
    if (is_within(options.out, folder) || is_within(folder, options.out))
      fail(ErrorKind::usage,
           "the output {} and the model \"{}\" lie in one another: choose another output folder",
           options.out.string(), model->name);
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
  if (options.copy_tokenizer) copy_base_files(moe, folder.path());
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
  return moe.gate_mode->needs == GateNeeds::nothing ? std::vector<Collision>()
                                                    : find_collisions(moe.gates->get());
}

}  // namespace moerge
