#include "moerge/hub/download.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/hub/cache_layout.h"
#include "moerge/hub/download_place.h"
#include "moerge/hub/file_transfer.h"
#include "moerge/hub/lock_file.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// Ends what other threads do when one of them has failed.
struct Stopped {};

using Places = std::map<const HubRepository*, std::unique_ptr<DownloadPlace>>;

Places make_places(std::span<const Download> downloads, const DownloadOptions& options, bool symlinks) {
  Places places;
  for (const Download& it : downloads) {
    auto& place = places[it.repository];
    if (!place)
      place = options.local_dir.empty() ? cache_place(*it.repository, options.cache, symlinks)
                                        : folder_place(*it.repository, options.local_dir);
  }
  return places;
}

// Files with the same content, which comes once.
struct Batch {
  const HubRepository* repository;
  DownloadPlace* place;
  std::vector<const HubFile*> files;
  int64_t bytes = 0;  // still to come
};

// In the order of their first files.
std::vector<Batch> batches(std::span<const Download> missing, const Places& places) {
  std::vector<Batch> out;
  std::map<fs::path, size_t> known;
  for (const Download& it : missing) {
    DownloadPlace& place = *places.at(it.repository);
    const fs::path partial = place.partial(it.file);
    const auto [found, is_new] = known.emplace(partial, out.size());
    if (!is_new) {
      out[found->second].files.push_back(&it.file);
      continue;
    }
    const int64_t held = regular_size(partial).value_or(0);
    const int64_t rest = held > it.file.size ? it.file.size : it.file.size - held;
    out.push_back({it.repository, &place, {&it.file}, place.has_bytes(it.file) ? 0 : rest});
  }
  return out;
}

Missing missing_of(std::span<const Download> downloads, const Places& places) {
  Missing missing;
  for (const Download& it : downloads)
    if (!places.at(it.repository)->has(it.file, check_interrupted)) missing.files.push_back(it);
  for (const Batch& batch : batches(missing.files, places)) missing.bytes += batch.bytes;
  return missing;
}

class Run {
 public:
  Run(Hub& hub, const Places& places, const Missing& missing, bool silent)
      : hub_(hub),
        silent_(silent),
        reporter_(hub.http().reporter()),
        several_(places.size() > 1),
        progress_(reporter_,
                  several_ ? fmt::format("{} {}s", places.size(), kind_word(places.begin()->first->name.kind))
                           : name_of(*places.begin()->first),
                  missing.bytes) {}

  int64_t received() const { return received_; }

  void bring(std::vector<Batch> work, int connections) {
    std::ranges::stable_sort(work, std::greater(), &Batch::bytes);
    parallel_for(work.size(), connections, [&](size_t i) {
      if (stop_) return;
      try {
        bring_one(work[i]);
      } catch (const Stopped&) {
        return;
      } catch (...) {
        const std::lock_guard lock(guard_);
        if (!failure_) failure_ = std::current_exception();
        stop_ = true;
      }
    });
    if (failure_) std::rethrow_exception(failure_);
    if (received_ > 0 && !silent_) progress_.finish();
  }

 private:
  static const std::string& name_of(const HubRepository& repository) { return repository.name.repository; }

  void check() const {
    check_interrupted();
    if (stop_) throw Stopped();
  }

  void bring_one(const Batch& batch) {
    const HubFile& file = *batch.files[0];
    if (batch.place->has_bytes(file)) return batch.place->put(batch.files, {}, reporter_);

    const std::string shown =
        several_ ? fmt::format("{}: {}", name_of(*batch.repository), file.path) : file.path;
    const auto start = std::chrono::steady_clock::now();
    bool said = false;
    const LockFile lock(batch.place->lock(file), [&] {
      check();
      if (said || std::chrono::steady_clock::now() - start < std::chrono::seconds(1)) return;
      reporter_.info(fmt::format("{}: another process is fetching it; waiting", shown));
      said = true;
    });
    if (batch.place->has_bytes(file)) {
      progress_.add(batch.bytes);
      return batch.place->put(batch.files, {}, reporter_);
    }
    const fs::path partial = batch.place->partial(file);
    const int64_t came =
        fetch_file(hub_, *batch.repository, file, partial,
                   {.on_bytes = [&](int64_t count) { progress_.add(count); }, .check = [&] { check(); }});
    batch.place->put(batch.files, partial, reporter_);
    received_ += came;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!silent_) reporter_.info(fmt::format("{}: {} in {:.1f} s", shown, human_bytes(came), seconds));
  }

  Hub& hub_;
  bool silent_;
  Reporter& reporter_;
  bool several_;
  Progress progress_;
  std::atomic<int64_t> received_{0};
  std::atomic<bool> stop_{false};
  std::mutex guard_;
  std::exception_ptr failure_;
};

}  // namespace

fs::path download_folder(const HubRepository& repository, const DownloadOptions& options) {
  return options.local_dir.empty() ? snapshot_folder(options.cache, repository.name, repository.commit)
                                   : options.local_dir;
}

Missing find_missing(std::span<const Download> downloads, const DownloadOptions& options) {
  return missing_of(downloads, make_places(downloads, options, true));
}

void check_space(const Missing& missing, const DownloadOptions& options) {
  if (missing.bytes == 0) return;
  const bool to_cache = options.local_dir.empty();
  const fs::path& folder = to_cache ? options.cache : options.local_dir;
  const int64_t room = free_space(folder);
  if (missing.bytes > room)
    fail(ErrorKind::io,
         "{} have still to come, and {} has {} free: make room, or choose another folder with {}",
         human_bytes(missing.bytes), folder.string(), human_bytes(room),
         to_cache ? "--cache or HF_HUB_CACHE" : "--local-dir");
}

int64_t download(Hub& hub, std::span<const Download> downloads, const DownloadOptions& options) {
  if (downloads.empty()) return 0;
  const Places places = make_places(downloads, options, hub.settings().symlinks);
  const Missing missing = missing_of(downloads, places);
  for (const Download& it : missing.files) require_transport(*it.repository, it.file);
  check_space(missing, options);
  for (const auto& [repository, place] : places) place->begin();

  size_t next = 0;  // both lists are in the same order
  for (const Download& it : downloads)
    if (next < missing.files.size() && missing.files[next].repository == it.repository &&
        missing.files[next].file.path == it.file.path)
      next++;
    else
      places.at(it.repository)->keep(it.file);

  Run run(hub, places, missing, options.silent);
  run.bring(batches(missing.files, places), options.connections);
  if (options.moves_revision)
    for (const auto& [repository, place] : places) place->end();
  return run.received();
}

}  // namespace moerge
