#pragma once
// Files of the Hub into the Hugging Face cache, where Python finds them
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache), or into a folder of their own.

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "moerge/hub/hub.h"

namespace moerge {

/// One file to bring. `repository` must outlive it.
struct Download {
  const HubRepository* repository;
  HubFile file;
};

struct DownloadOptions {
  std::filesystem::path cache;           // of huggingface_hub's layout
  std::filesystem::path local_dir = {};  // not empty: the files go there instead, under their names
  int connections = 8;                   // files at once
  bool silent = false;                   // no line about what has come
  bool moves_revision = true;            // the revision's name points to the commit afterwards
};

/// The folder that the files of a repository appear in: its snapshot in the cache, or local_dir.
std::filesystem::path download_folder(const HubRepository& repository, const DownloadOptions& options);

/// What is not there yet, in the given order, and how many bytes of it have still to come: what an
/// interrupted download left, and what the cache has under another name, counts as there.
struct Missing {
  std::vector<Download> files;
  int64_t bytes = 0;
};
Missing find_missing(std::span<const Download> downloads, const DownloadOptions& options);

/// Throws io when what is missing does not fit on the disk.
void check_space(const Missing& missing, const DownloadOptions& options);

/// Brings every file and then makes the revision's name point to the commit. Several at once; a broken or
/// interrupted transfer goes on where it stopped, in this run or the next; each file appears only when its
/// sha256 or git id is right. Two processes that bring one file do not fight: the second waits and uses it.
/// Returns the bytes that came over the network. Throws config and io with a sentence (see fail_hub), input
/// for bytes that are not the announced ones, interrupted.
int64_t download(Hub& hub, std::span<const Download> downloads, const DownloadOptions& options);

}  // namespace moerge
