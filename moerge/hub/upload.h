#pragma once
// A folder to the Hub: whoami, create, preupload, LFS, one commit (https://huggingface.co/docs/hub/api).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/hub/hub.h"

namespace moerge {

/// A file of the upload.
struct UploadFile {
  std::filesystem::path source;  // for messages where `content` is set
  std::string path;              // in the repository
  int64_t size;
  std::optional<std::string> content = {};  // instead of what `source` holds
};

/// The folder's files by name, hidden ones and half-made ones left out. A link is followed to a file of the
/// folder or of `cache`, where the snapshots of models are links. Throws config for a link that leads
/// elsewhere, for what is no file, and for a name that the Hub or another system could not take.
std::vector<UploadFile> files_to_upload(const std::filesystem::path& folder,
                                        const std::filesystem::path& cache);

/// Who the token stands for.
struct HubAccount {
  std::string name;
  struct Organisation {
    std::string name, role;
  };
  std::vector<Organisation> organisations = {};
  std::string role = {};  // of the token: "read", "write" or "fineGrained"
};

/// Throws config where there is no token, or the Hub does not know it. `repeat`: ask again when no answer
/// comes.
HubAccount ask_account(Hub& hub, bool repeat = true);

/// Refuses, before anything is sent, what cannot end well: a token that may only read, somebody else's
/// namespace, a model card with errors. Passes on what the Hub warns of.
void check_upload(Hub& hub, const HubAccount& account, const HubName& target,
                  const std::vector<UploadFile>& files);

struct UploadOptions {
  HubName target;  // the revision is a branch
  bool make_private = false;
  std::string message = {};  // the commit's summary
  int connections = 5;       // files or parts at once
};

/// What is (or would be) done.
struct UploadReport {
  std::string url;                       // of the repository
  std::string commit = {};               // empty: there was nothing to change, or a dry run
  std::vector<UploadFile> sent = {};     // to be sent, in a dry run
  std::vector<UploadFile> skipped = {};  // there already
};

/// One commit with all that differs; makes the repository and the branch where they are missing. Sent files
/// are kept by the Hub even when the commit fails: a repeated upload does not send them again. Throws config,
/// input, io and interrupted with a sentence.
UploadReport upload(Hub& hub, const HubAccount& account, const std::vector<UploadFile>& files,
                    const UploadOptions& options);

/// The same without changing anything: compares with what the repository has, if it is there.
UploadReport dry_upload(Hub& hub, const std::vector<UploadFile>& files, const HubName& target);

}  // namespace moerge
