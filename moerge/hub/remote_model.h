#pragma once
// A model of the Hub without its download: a folder whose files of weights have their full size and hold what
// was brought of them, holes elsewhere. Everything that opens a model folder opens it: with the headers
// there, shapes and families are known after kilobytes; with the ranges of some tensors there, these can be
// read.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/hub/download.h"
#include "moerge/hub/hub.h"

namespace moerge {

/// Files of a repository beside its weights: configurations, tokenizer, chat templates, card, licence.
std::vector<HubFile> small_model_files(const HubRepository& repository);

/// The files of its weights that moerge would open in `folder`, where the small files are already:
/// safetensors (one or shards), else PyTorch's, else one GGUF; an adapter's. Throws unsupported when there
/// are none, input when the index names a file that the repository does not have.
std::vector<HubFile> weight_files(const HubRepository& repository, const std::filesystem::path& folder);

/// Bytes [begin, end) of a file.
using ByteRange = std::pair<int64_t, int64_t>;
using ByteRanges = std::vector<ByteRange>;

/// Sorted, without overlaps, neighbours joined.
ByteRanges merged(ByteRanges ranges);
/// What of `wanted` is not in `there`; both merged().
ByteRanges without(const ByteRanges& wanted, const ByteRanges& there);
int64_t total_bytes(const ByteRanges& ranges);

class RemoteModel {
 public:
  /// Lists the repository, downloads its small files into the cache and makes the folder below `store`, with
  /// the headers of its weights. Another process that works on the same folder is waited for.
  RemoteModel(Hub& hub, const HubName& name, const std::filesystem::path& store,
              const DownloadOptions& options);

  const HubRepository& repository() const { return repository_; }
  const std::filesystem::path& folder() const { return folder_; }  // canonical
  const std::vector<HubFile>& weights() const { return weights_; }
  /// All that moerge reads of it, for download().
  std::vector<Download> downloads() const;

  /// Of a file of weights, what is not there yet.
  ByteRanges missing(const std::string& file, const ByteRanges& wanted) const;
  /// Brings these ranges, several pieces at once; what is there already, from an earlier run as well, is not
  /// asked for again. Throws what RemoteFile::read() throws.
  void bring(const std::map<std::string, ByteRanges>& wanted, Progress* progress);

  /// Keeps the folder for later runs.
  void keep();
  /// Has bring() brought anything, in this run or an earlier one?
  bool has_parts() const;
  /// Removes the folder, where nobody keeps it or works with it. Models that are open in it stay readable.
  void remove_unless_kept();

 private:
  File take_lock() const;
  void bring_locked(const std::map<std::string, ByteRanges>& wanted, Progress* progress);
  void bring_headers();
  void bring_zip_headers(const HubFile& file);
  void bring_gguf_header(const HubFile& file);
  bool has_gguf_header(const HubFile& file, int64_t size);
  std::filesystem::path journal(const std::string& file) const;

  Hub& hub_;
  HubRepository repository_;
  DownloadOptions options_;
  std::filesystem::path folder_;
  std::unique_ptr<File> in_use_;  // a shared lock: the folder is not removed by others
  std::vector<HubFile> small_, weights_;
  std::map<std::string, ByteRanges> there_;  // by file
};

}  // namespace moerge
