#pragma once
// What the Hub has: repositories, their files at a commit, and where a file's bytes are
// (https://huggingface.co/docs/hub/api). Everything here reads; upload.h writes.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/hub/http.h"
#include "moerge/hub/name.h"

namespace moerge {

struct HubFile {
  std::string path;                        // checked: is_safe_path()
  int64_t size;                            // of the file itself, not of its LFS pointer
  std::string blob_id;                     // git's name of it (of its pointer, for LFS)
  std::optional<std::string> sha256 = {};  // of a file in LFS
  std::string xet_hash = {};               // where the Hub keeps it in Xet as well

  /// What its blob in the cache is called: sha256 in LFS, else git's name.
  const std::string& etag() const { return sha256 ? *sha256 : blob_id; }
};

/// A repository at one commit.
struct HubRepository {
  HubName name;  // as asked for
  std::string commit = {};
  std::vector<HubFile> files = {};  // in the Hub's order
  bool is_private = false, is_gated = false;

  const HubFile* find(std::string_view path) const;
  int64_t bytes() const;
};

/// Its page for people: ENDPOINT/org/name, ENDPOINT/datasets/org/name.
std::string repository_page(const HubSettings& settings, const HubName& name);

/// What a request was about, for the sentence that says why it failed.
struct HubSubject {
  HubName name;
  std::string path = {};  // of a file
};

/// The error of an answer that is no success: one sentence with the way out. Kinds: config where the name,
/// the token or a licence is the matter, io for the network and the server.
[[noreturn]] void fail_hub(const HttpResponse& answer, const HubSubject& subject,
                           const HubSettings& settings);

/// What the Hub said in words: X-Error-Message, or "error", "errors" and "warnings" of a JSON body; may be
/// empty. Safe to print, cut where long.
std::string hub_message(const HttpResponse& answer);

/// Safe to use from any thread.
class Hub {
 public:
  /// Throws config when the settings forbid requests (offline).
  Hub(HubSettings settings, Reporter& reporter);

  const HubSettings& settings() const { return http_.settings(); }
  HttpClient& http() { return http_; }

  /// The commit that the revision means now, and the files there. Throws what fail_hub() throws, and input
  /// for a listing that is damaged or names files that would leave their folder.
  HubRepository repository(const HubName& name);

  /// ENDPOINT/org/name/resolve/COMMIT/PATH, ENDPOINT/datasets/org/name/resolve/COMMIT/PATH
  std::string file_url(const HubRepository& repository, const HubFile& file) const;
  /// ENDPOINT/api/models/org/name + `rest`, ENDPOINT/api/datasets/org/name + `rest`
  std::string api_url(const HubName& name, const std::string& rest = "") const;

  /// The JSON of an answer; throws what fail_hub() throws when it is no success.
  Json json_of(const HttpResponse& answer, const HubSubject& subject) const;

 private:
  HttpClient http_;
};

}  // namespace moerge
