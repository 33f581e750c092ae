#pragma once
// Which shard holds which tensor of a plan, and where: settled before the first byte is written.

#include <cstdint>
#include <string>
#include <vector>

#include "moerge/formats/shards.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct FolderLayout {
  std::vector<Shard> shards;
  int64_t shared = 0;  // bytes in whole blocks that result and sources will have in common

  int64_t file_bytes(const Plan& plan) const;
};

/// In the plan's order, by size alone.
FolderLayout lay_out_by_size(const Plan& plan, int64_t max_shard_bytes);

/// So that the file system can share blocks (of a power of two of bytes, at least 8): it can where
/// source and result have the same offset modulo that. The tensors between the large ones, norms and biases,
/// shift what follows them; so a shard begins, through its header's padding, at the offset of its first
/// tensor, and goes on with tensors that lie in their sources as it does itself. What fits nowhere comes
/// last, by size alone. Where less than a tenth could be shared: by size
/// alone.
FolderLayout lay_out_to_share(const Plan& plan, int64_t max_shard_bytes, const BlockSharing& sharing);

}  // namespace moerge
