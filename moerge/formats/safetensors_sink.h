#pragma once
// Writes shards of safetensors, and goes on where an earlier run stopped.

#include <chrono>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <vector>

#include "moerge/formats/shards.h"
#include "moerge/formats/sink.h"
#include "moerge/formats/write_journal.h"

namespace moerge {

/// The tensors that a journal's entries claim: {"done": [[FIRST, LAST], ...]}, numbers of tensors, both ends
/// included. What is no such claim is passed over.
std::vector<bool> journalled_tensors(const std::vector<Json>& entries, size_t count);

/// Writes shards and, for more than one, model.safetensors.index.json into an existing folder. Tensors that
/// the journal has are kept, if their shard still has its size and header. New ones are claimed there
/// after their file was synced: whenever a shard is whole, and after every gigabyte or five seconds.
class SafetensorsSink final : public TensorSink {
 public:
  struct Options {
    WriteJournal* journal = nullptr;  // null: nothing is kept or claimed
    std::vector<bool> only =
        {};  // by shard; empty: all. The others are not touched, the index is not written.
    std::function<void()> check = {};  // before a claim; may throw
    bool forget = false;               // what was written leaves the page cache with the claim
  };

  SafetensorsSink(std::filesystem::path folder, std::vector<Shard> shards, Options options);

  /// After it, wants() is final.
  void begin(std::span<const TensorSpec> specs) override;
  bool wants(size_t i) const override { return wanted_[i]; }
  void put(size_t i, int64_t offset, std::span<const std::byte> bytes) override;
  void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
            int64_t count) override;
  void complete(size_t i) override;
  void finish() override;

  /// Syncs and claims what is complete.
  void claim();

 private:
  struct Output {
    explicit Output(File opened) : file(std::move(opened)) {}
    File file;
    std::mutex copying;  // writers of one file exclude each other in the kernel, spinning; here they sleep
    size_t missing = 0;     // tensors that are not complete
    int64_t unwritten = 0;  // bytes since start_writing()
  };
  struct Place {
    Output* output = nullptr;
    int64_t offset = 0;
  };

  bool is_mine(size_t shard) const { return options_.only.empty() || options_.only[shard]; }
  std::vector<bool> find_done();

  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  Options options_;
  std::vector<TensorSpec> specs_;
  std::vector<bool> wanted_;
  std::deque<Output> outputs_;  // stable addresses
  std::vector<Place> places_;
  bool names_synced_ = false;

  std::mutex guard_;  // of the following
  std::vector<size_t> complete_;
  int64_t complete_bytes_ = 0;
  std::chrono::steady_clock::time_point claimed_ = std::chrono::steady_clock::now();
  std::mutex claiming_;
};

}  // namespace moerge
