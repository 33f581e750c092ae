#pragma once
// moerge_manifest.json: checksums of every tensor and file of a finished model folder, and of what it was
// made of, written by a build with --verify and compared by `moerge verify`; docs/verify.md.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/base/progress.h"
#include "moerge/formats/checkpoint.h"
#include "moerge/model/model.h"
#include "moerge/plan/plan.h"

namespace moerge {

inline constexpr const char* kManifestName = "moerge_manifest.json";

/// A source tensor, and what became of it. Hashes are sha256 in lower-case hexadecimal digits.
struct ManifestPart {
  std::string model = {}, tensor = {};  // the model as the user named it
  std::string sha256 = {};              // of the source's stored bytes, see hash_source()
  Json change = {};                     // null: copied; not read back
  std::string written = {};             // of this part of the output; empty where the part is all of it
  int64_t bytes = 0;                    // likewise, its size
};

struct ManifestTensor {
  TensorSpec spec = {.name = {}, .dtype = DType::f32, .shape = {}};
  std::string file = {}, sha256 = {};
  std::vector<ManifestPart> parts = {};
  std::string computed = {};  // how, where no source holds it

  /// "one: model.norm.weight + two: model.norm.weight".
  std::string sources() const;
};

struct ManifestFile {
  std::string name = {};  // relative to the folder, with "/"
  int64_t size = 0;
  std::string sha256 = {};
};

struct Manifest {
  std::string moerge_version = {};
  std::vector<ManifestTensor> tensors = {};
  std::vector<ManifestFile> files = {};  // all but the weights and the manifest
};

struct HashOptions {
  int threads;
  Reporter& reporter;
};

/// Of a folder that was written by `plan` and found equal to it: what is copied as a whole is not read a
/// second time. Hidden files are left out. Memory: a small buffer a thread.
Manifest make_manifest(const Plan& plan, const std::vector<const Model*>& sources, const Checkpoint& written,
                       const HashOptions& options);
/// The file's content: one tensor a line.
std::string manifest_text(const Manifest& manifest);
/// Of a folder that has one. Throws input for anything but a sound manifest, unsupported for one of a later
/// format; names are then plain and lead nowhere else.
Manifest read_manifest(const std::filesystem::path& folder);

/// Of bytes of a file, read piece by piece: what a disk refuses to read is an Error (io), not a signal.
/// `progress` may be null.
std::string hash_bytes(const File& file, int64_t offset, int64_t size, Progress* progress);
/// Of all that a tensor is read from, one after the other: its stored bytes; of a derived tensor those of its
/// source, then of what is read beside (scales, an adapter's factors).
std::string hash_source(const StoredTensor& tensor, Progress* progress);
int64_t source_size(const StoredTensor& tensor);

}  // namespace moerge
