#pragma once
// What lies where in the Hugging Face cache
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
//   models--org--name/blobs/<etag>                the content, under its hash; of data sets
//   datasets--org--name models--org--name/snapshots/<commit>/<path>   a link to it
//   models--org--name/refs/<revision>             the commit that the name meant last
//   models--org--name/trees/<commit>.json         which files the commit has
//   .locks/models--org--name/<etag>.lock

#include <filesystem>
#include <optional>
#include <string>

#include "moerge/hub/hub.h"

namespace moerge {

std::filesystem::path repository_folder(const std::filesystem::path& cache, const HubName& name);
std::filesystem::path snapshot_folder(const std::filesystem::path& cache, const HubName& name,
                                      const std::string& commit);

/// The commit that the cache knows a revision by; nothing when it knows none.
std::optional<std::string> cached_commit(const std::filesystem::path& cache, const HubName& name);

/// A repository as the cache knows it, without asking the Hub: its commit and the list of its files, which
/// need not be there. Nothing when it has no list.
std::optional<HubRepository> cached_repository(const std::filesystem::path& cache, const HubName& name);

/// The files that are there of the commit, which need not be all. Nothing when there are none.
std::optional<HubRepository> cached_snapshot(const std::filesystem::path& cache, const HubName& name);

}  // namespace moerge
