#pragma once
// Parts of a file on the Hub, by Range requests.

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "moerge/hub/hub.h"

namespace moerge {

/// Safe to use from any thread. The Hub's answer where the bytes are (a signed address in its store) is asked
/// for once and used until it expires.
class RemoteFile {
 public:
  /// `hub` and `repository` must outlive it.
  RemoteFile(Hub& hub, const HubRepository& repository, HubFile file);

  const HubFile& file() const { return file_; }

  /// Hands bytes [offset, offset + count) to `take` in order, each once, and goes on after a broken
  /// connection where it stopped. Throws what fail_hub() throws, input for a server that knows no ranges or
  /// another size, and what `take` throws.
  void read(int64_t offset, int64_t count, const std::function<void(std::span<const std::byte>)>& take);
  std::string read_text(int64_t offset, int64_t count);

 private:
  std::string address();

  Hub& hub_;
  const HubRepository& repository_;
  HubFile file_;
  std::mutex guard_;
  std::string address_;  // empty: not known yet
};

}  // namespace moerge
