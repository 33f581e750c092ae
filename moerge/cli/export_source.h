#pragma once
// What `moerge gguf` and `moerge imatrix` can start from: the YAML of a mixture or merge, or a model.

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/cli/moe_source.h"
#include "moerge/export/file_types.h"
#include "moerge/export/metadata.h"
#include "moerge/export/write.h"
#include "moerge/merge/planner.h"
#include "moerge/plan/plan.h"

namespace moerge {

bool is_yaml(const std::filesystem::path& path);

/// BF16 or F16, as the weights are: by llama.cpp's rule, the first matrix of such a type, by name; else F16.
const FileType& wide_type(const Plan& plan);

/// Of a planned mixture, for the exporter; `name`: of the model to be written.
ExportSource describe_moe(const MoePlan& moe, const std::string& name);

/// The same of a planned merge. `tokenizer_folder` (TokenizerFolder) must outlive the result.
ExportSource describe_merge(const MergePlan& merge, const std::filesystem::path& tokenizer_folder,
                            const std::string& name);

class OpenSource {
 public:
  /// Opens and checks everything but weights. Throws what planning throws.
  OpenSource(const std::string& source, const SourceOptions& options, int threads, Reporter& reporter);
  OpenSource(const OpenSource&) = delete;
  OpenSource& operator=(const OpenSource&) = delete;
  ~OpenSource();

  /// The YAML's name without its extension, the folder's name, or the model's part of a Hub name.
  const std::string& name() const;
  const Plan& plan() const;
  const std::vector<std::string>& warnings() const;
  /// Lets go of what was fetched for this run only (SourceOptions::fetch).
  void forget();
  /// The same after a dry run.
  void forget_headers();
  /// For the exporter; `name`: of the model to be written.
  ExportSource describe(const std::string& name) const;
  /// Starts what the plan waits for (the routers of an MoE). The function returned throws when that has
  /// failed.
  std::function<void()> start(Reporter& reporter);
  /// What there is to say about the routers, when all is written.
  void report(Reporter& reporter) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Makes the files, with progress, and reports on the routers.
void write_source(OpenSource& source, const ExportPlan& plan, std::span<const OutputFile> files,
                  const ExportOptions& options, int threads, Reporter& reporter);

/// What a model is called that a reference names: the part of a Hub name behind the slash, the folder's own
/// name or the GGUF file's without its ending; then the expert and the adapter.
std::string source_name(const ModelLocation& location);

}  // namespace moerge
