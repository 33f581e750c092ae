#pragma once
// Is a model folder still what its manifest says? For `moerge verify`.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "moerge/plan/manifest.h"

namespace moerge {

/// Something that is not as it was built.
struct VerifyFinding {
  std::string kind;  // a word for scripts, see docs/verify.md
  std::string text;  // a sentence
  std::string file = {};
  std::vector<std::string> tensors = {};
};

struct VerifyReport {
  std::vector<VerifyFinding> problems;  // weights, and what a model cannot be loaded without
  std::vector<VerifyFinding> notes;     // changes that people make
  int64_t tensors = 0;                  // of the manifest
  int64_t right = 0;                    // of these: bytes, type and shape
  int64_t files = 0;                    // of weights
  int64_t bytes = 0;                    // hashed
  double seconds = 0;
};

/// Reads every tensor. Finds and goes on: throws only when it is interrupted.
VerifyReport verify_folder(const std::filesystem::path& folder, const Manifest& manifest,
                           const HashOptions& options);

/// Opens a model by the name that a manifest has for it; null where it is not here.
using OpenSource = std::function<std::unique_ptr<Model>(const std::string& name)>;

/// Hashes what the folder was made of, and adds to a report.
void verify_sources(const Manifest& manifest, const OpenSource& open, const HashOptions& options,
                    VerifyReport& report);

}  // namespace moerge
