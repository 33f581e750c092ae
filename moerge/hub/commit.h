#pragma once
// One commit on the Hub, made once whatever happens to the answer.

#include <cstdint>
#include <span>
#include <string>

#include "moerge/hub/hashed_file.h"

namespace moerge {

/// Throws input where a file, or all together, are more than a commit may hold; `large` ones lie in LFS.
void check_commit_size(std::span<const HashedFile* const> files);

/// Adds a commit with these files to the branch; its id. `head` is what the branch was when the files were
/// compared with it. A commit that somebody else made since then stays: this one comes on top of it. Throws
/// config, input, io and interrupted with a sentence.
std::string make_commit(Hub& hub, const HubName& target, std::span<const HashedFile* const> files,
                        const std::string& message, std::string head);

}  // namespace moerge
