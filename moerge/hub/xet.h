#pragma once
// Xet, the Hub's transport that cuts files into pieces and moves only those the other side lacks: Hugging
// Face's own client (the crate hf-xet), present in a program that was built with -DMOERGE_XET=ON. Without it
// both transfers throw ErrorKind::unsupported with a sentence that says how to build it in. They also end,
// with ErrorKind::interrupted, when the user interrupts (base/parallel.h).

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace moerge {

/// The largest file that the Hub takes and hands out otherwise (huggingface_hub's constant).
inline constexpr int64_t kLargestPlainFile = 50'000'000'000;

/// Whether this program was built with Xet.
bool xet_available();

struct XetFile {
  std::filesystem::path path;
  std::string sha256;  // of the whole file, 64 hexadecimal digits; taken at its word, and the Hub finds the
                       // content by it
};

/// Bytes done and bytes known of so far; called a few times a second on the caller's thread. What it throws
/// aborts the transfer and passes through.
using XetProgress = std::function<void(int64_t done, int64_t total)>;

/// `refresh_url` is the Hub's .../xet-write-token/REVISION (or xet-read-token): hf-xet asks it for a token of
/// the storage server, sending `token`, the Hub's (may be empty), and asks again before that one runs out.
///
/// Returns once the storage has all the files' content: a commit may name them by their sha256. Content that
/// it had already is not sent again: doing an interrupted upload again sends what the first had not, and what
/// it sent in its last 20 s.
void xet_upload(const std::string& refresh_url, const std::string& token, const std::vector<XetFile>& files,
                const XetProgress& progress);

/// `hash` is the Hub's X-Xet-Hash of the file and `size` its length. Writes the file `target` from its
/// beginning; when this throws, what is there is incomplete. The caller gives it a name of its own until
/// then.
void xet_download(const std::string& refresh_url, const std::string& token, const std::string& hash,
                  int64_t size, const std::filesystem::path& target, const XetProgress& progress);

}  // namespace moerge
