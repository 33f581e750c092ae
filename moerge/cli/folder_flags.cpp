#include "moerge/cli/folder_flags.h"

#include "moerge/cli/arguments.h"
#include "moerge/base/version.h"

namespace moerge {
namespace {

constexpr const char *kFilesGroup = "Files", *kReportGroup = "What is reported";

}  // namespace

BuildOptions FolderFlags::build_options() const {
  return {.out = out,
          .overwrite = overwrite,
          .copy_tokenizer = copy_tokenizer,
          .write_card = write_card,
          .verify = verify,
          .max_shard_bytes = parse_size(shard_size, "--out-shard-size"),
          .share_blocks = layout_files == "auto",
          .made_with = std::string(kVersion),
          .threads = threads};
}

Verbosity FolderFlags::level() const {
  return quiet ? Verbosity::quiet : verbosity > 0 ? Verbosity::verbose : Verbosity::normal;
}

void add_shard_flag(CLI::App& app, FolderFlags& flags) {
  app.add_option("--out-shard-size", flags.shard_size, "bytes per file: 5B, 500M, 200k (B is 10^9) (5B)")
      ->group(kFilesGroup);
  app.add_option(
         "--layout-files", flags.layout_files,
         "auto: where the file system can share blocks (XFS, Btrfs), files are laid out so that copied "
         "tensors take neither time nor space; size: tensors in the model's order, in files of one size "
         "(auto)")
      ->check(CLI::IsMember({"auto", "size"}))
      ->group(kFilesGroup);
}

void add_cache_flag(CLI::App& app, FolderFlags& flags) {
  app.add_option("--transformers-cache", flags.cache,
                 "look for models here instead of the Hugging Face cache")
      ->group(kFilesGroup);
}

void add_file_flags(CLI::App& app, FolderFlags& flags, const std::string& tokenizer) {
  const std::string files = kFilesGroup;
  add_shard_flag(app, flags);
  app.add_flag("--overwrite", flags.overwrite, "replace a model that OUT holds")->group(files);
  app.add_flag("--copy-tokenizer,!--no-copy-tokenizer", flags.copy_tokenizer,
               "copy the " + tokenizer + "'s tokenizer (on)")
      ->group(files);
  app.add_flag("--write-model-card,!--no-write-model-card", flags.write_card, "write README.md (on)")
      ->group(files);
  app.add_flag(
         "--verify", flags.verify,
         "reopen the result, compare every tensor with its source, and keep checksums for `moerge verify`")
      ->group(files);
  add_cache_flag(app, flags);
}

void add_thread_flag(CLI::App& app, FolderFlags& flags) {
  app.add_option("-j,--threads,--num-threads", flags.threads, "threads (all cores)")
      ->check(CLI::Range(1, 1024))
      ->group(kWorkGroup);
}

void add_json_flag(CLI::App& app, FolderFlags& flags) {
  app.add_flag("--json", flags.json, "print the plan as JSON on stdout")->group(kReportGroup);
}

void add_report_flags(CLI::App& app, FolderFlags& flags) {
  const std::string report = kReportGroup;
  app.add_flag("--dry-run", flags.dry_run, "check everything, print the plan, write nothing")->group(report);
  add_json_flag(app, flags);
  app.add_flag("--quiet,!--no-quiet", flags.quiet, "warnings and errors only")->group(report);
  app.add_flag("-v,--verbose", flags.verbosity, "say more")->group(report);
}

std::string dry_run_text(const std::string& summary, const Plan& plan, bool every_step) {
  std::string out = summary + "\n";
  if (every_step)
    for (const Step& step : plan.steps) out += "  " + describe(step) + "\n";
  return printable(out) + "nothing was written (--dry-run)\n";
}

}  // namespace moerge
