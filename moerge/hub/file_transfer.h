#pragma once
// The bytes of one file on the Hub into a file here that grows, hashed while they arrive.

#include <cstdint>
#include <filesystem>
#include <functional>

#include "moerge/hub/hub.h"

namespace moerge {

struct TransferWatch {
  std::function<void(int64_t)> on_bytes;  // so many more are there; negative: some were thrown away
  std::function<void()> check;            // called all the time; may throw to end the transfer
};

/// Throws unsupported for a file that the Hub hands out by Xet alone (above 50 GB, as huggingface_hub knows
/// it), where this program was built without.
void require_transport(const HubRepository& repository, const HubFile& file);

/// Makes `partial` the file's content, right to the last byte. What lies there is hashed and gone on from; a
/// broken connection is taken up where it broke. The caller has the file for itself. Returns the bytes that
/// came over the network. Throws what fail_hub() throws, and input, naming what was expected and found, when
/// the bytes are not the announced ones. A `partial` that has turned out wrong is gone then; after all else
/// it waits for the next try.
int64_t fetch_file(Hub& hub, const HubRepository& repository, const HubFile& file,
                   const std::filesystem::path& partial, const TransferWatch& watch);

/// Is this file's content the announced one? `check` as above.
bool has_content(const std::filesystem::path& path, const HubFile& file, const std::function<void()>& check);

}  // namespace moerge
