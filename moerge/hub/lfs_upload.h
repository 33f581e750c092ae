#pragma once
// Large files into the Hub's store: git LFS's batch API with the transfers "basic" and "multipart"
// (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md).

#include <span>

#include "moerge/hub/hashed_file.h"

namespace moerge {

/// Returns once the store has the content of all these large files: a commit may name them by their sha256.
/// What it has already is not sent. `connections` files or parts at once. Throws config, input, io and
/// interrupted with a sentence; files that were sent whole are kept by the store.
void upload_lfs(Hub& hub, const HubName& target, std::span<const HashedFile* const> files, int connections);

/// Throws unsupported when one of the files is too large for LFS and Xet is not there.
void check_lfs_sizes(std::span<const HashedFile* const> files);

}  // namespace moerge
