#pragma once
// A folder to the Hub: whoami, create, preupload, LFS, one commit (https://huggingface.co/docs/hub/api).

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "moerge/hub/hub.h"

namespace moerge {

struct UploadOptions {
  HubName target;  // the revision is a branch
  bool make_private = false;
  std::string message = {};  // the commit's summary
  int connections = 5;       // files or parts at once
};

struct UploadFile {
  std::filesystem::path source;
  std::string path;  // in the repository
  int64_t size;
};

/// The folder's files by name, hidden ones, links that lead out of it, and half-made ones left out. Throws
/// config for a name that the Hub or another system could not take.
std::vector<UploadFile> files_to_upload(const std::filesystem::path& folder);

/// What is (or would be) done.
struct UploadReport {
  std::string url;                  // of the repository
  std::string commit;               // empty: there was nothing to change, or a dry run
  std::vector<UploadFile> sent;     // to be sent, in a dry run
  std::vector<UploadFile> skipped;  // there already
};

/// One commit with all that differs. Sent files are kept by the Hub even when the commit fails: a repeated
/// upload does not send them again. Throws config, io and interrupted with a sentence.
UploadReport upload(Hub& hub, std::vector<UploadFile> files, const UploadOptions& options);

/// The same without changing anything; asks the Hub what it has, when the repository is there.
UploadReport dry_upload(Hub& hub, std::vector<UploadFile> files, const UploadOptions& options);

}  // namespace moerge
