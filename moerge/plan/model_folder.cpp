#include "moerge/plan/model_folder.h"

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/output_folder.h"
#include "moerge/plan/source_watch.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kSmallFiles = 64 << 20;  // tokenizer, configuration, card: generously

}  // namespace

std::string folder_name(const fs::path& out) {
  const fs::path target = fs::weakly_canonical(out);
  return (target.has_filename() ? target : target.parent_path()).filename().string();
}

FolderLayout lay_out_folder(const Plan& plan, const BuildOptions& options) {
  if (!options.share_blocks || options.out.empty()) return lay_out_by_size(plan, options.max_shard_bytes);
  return lay_out_to_share(plan, options.max_shard_bytes, sharing_with(options.out));
}

int64_t needed_space(const Plan& plan, const FolderLayout& layout) {
  return plan.totals().bytes - layout.shared + kSmallFiles;
}

void check_folder(const Plan& plan, const FolderLayout& layout, const std::vector<const Model*>& sources,
                  const BuildOptions& options) {
  check_output_folder(options.out, options.overwrite);
  if (const fs::path parts = partial_folder(options.out); options.join && !fs::exists(parts))
    fail(ErrorKind::usage, "--join: {} holds no part of a build: run the parts first (--part 1/N ...)",
         parts.string());
  for (const Model* model : sources)
    if (is_within(options.out, model->path) || is_within(model->path, options.out))
      fail(ErrorKind::usage,
           "the output {} and the model \"{}\" lie in one another: choose another output folder",
           options.out.string(), model->name);
  for (const MappedFile* file : list_source_files(plan))
    if (is_within(file->file().path(), options.out))
      fail(ErrorKind::usage,
           "{} leads into the output {}, which would replace it: choose another output folder",
           file->file().path().string(), options.out.string());
  const int64_t there = unfinished_bytes(options.out);
  const int64_t needed = needed_space(plan, layout) - there, free = free_space(options.out);
  if (needed > free)
    fail(ErrorKind::io, "not enough space for {}: {} needed, {} free", options.out.string(),
         human_bytes(needed), human_bytes(free));
}

}  // namespace moerge
