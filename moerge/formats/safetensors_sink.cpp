#include "moerge/formats/safetensors_sink.h"

#include <algorithm>
#include <set>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr int64_t kClaimBytes = 1'000'000'000;
constexpr std::chrono::seconds kClaimTime(5);
// Written to the disk while the next is copied; smaller ones are left to the kernel.
constexpr int64_t kWriteAhead = 32 << 20;

// Of sorted numbers.
Json claim_of(std::span<const size_t> tensors) {
  Json ranges = Json::array();
  for (const size_t i : tensors)
    if (!ranges.empty() && ranges.back()[1] == i - 1)
      ranges.back()[1] = i;
    else
      ranges.push_back(Json::array({i, i}));
  return {{"done", std::move(ranges)}};
}

}  // namespace

std::vector<bool> journalled_tensors(const std::vector<Json>& entries, size_t count) {
  std::vector<bool> done(count);
  for (const Json& entry : entries) {
    const auto ranges = entry.find("done");
    if (ranges == entry.end() || !ranges->is_array()) continue;
    for (const Json& range : *ranges) {
      if (!range.is_array() || range.size() != 2 || !range[0].is_number_unsigned() ||
          !range[1].is_number_unsigned())
        continue;
      const auto last = range[1].get<uint64_t>();
      if (last >= count) continue;
      for (auto i = range[0].get<uint64_t>(); i <= last; i++) done[i] = true;
    }
  }
  return done;
}

SafetensorsSink::SafetensorsSink(std::filesystem::path folder, std::vector<Shard> shards, Options options)
    : folder_(std::move(folder)), shards_(std::move(shards)), options_(std::move(options)) {}

void SafetensorsSink::begin(std::span<const TensorSpec> specs) {
  specs_.assign(specs.begin(), specs.end());
  places_.resize(specs_.size());
  wanted_.assign(specs_.size(), false);
  const std::vector<bool> done = find_done();
  for (size_t s = 0; s < shards_.size(); s++) {
    if (!is_mine(s)) continue;
    const Shard& shard = shards_[s];
    Output& output = outputs_.emplace_back(File::open_output(folder_ / shard.file));
    const std::string header = shard.header(specs_);
    int64_t offset = std::ssize(header);
    bool any_done = false;
    for (const size_t i : shard.tensors) {
      places_[i] = {&output, offset};
      offset += specs_[i].bytes();
      wanted_[i] = !done[i];
      any_done = any_done || done[i];
      if (wanted_[i]) output.missing++;
    }
    if (any_done) continue;
    output.file.resize(0);
    output.file.write_at(0, std::as_bytes(std::span(header)));
    output.file.resize(offset);
  }
}

// What the journal claims and the shards can hold. A claim that is wrong is taken back before anything else
// happens, or a third run would believe it.
std::vector<bool> SafetensorsSink::find_done() {
  if (!options_.journal) return std::vector<bool>(specs_.size());
  const std::vector<bool> claimed = journalled_tensors(options_.journal->entries(), specs_.size());
  std::vector<bool> done = claimed;
  for (size_t s = 0; s < shards_.size(); s++) {
    const auto claims = [&](size_t i) { return claimed[i]; };
    if (!std::ranges::any_of(shards_[s].tensors, claims)) continue;
    if (is_mine(s) && is_shard_intact(folder_, shards_[s], specs_)) continue;
    for (const size_t i : shards_[s].tensors) done[i] = false;
  }
  if (done != claimed) {
    std::vector<Json> others;
    for (const Json& entry : options_.journal->entries())
      if (!entry.contains("done")) others.push_back(entry);
    std::vector<size_t> kept;
    for (size_t i = 0; i < done.size(); i++)
      if (done[i]) kept.push_back(i);
    options_.journal->start(Json(options_.journal->head()));
    for (const Json& entry : others) options_.journal->add(entry);
    options_.journal->add(claim_of(kept));
  }
  return done;
}

void SafetensorsSink::put(size_t i, int64_t offset, std::span<const std::byte> bytes) {
  places_[i].output->file.write_at(places_[i].offset + offset, bytes);
}

void SafetensorsSink::copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
                           int64_t count) {
  Output& output = *places_[i].output;
  const std::lock_guard lock(output.copying);
  copy_range(source.file(), source_offset, output.file, places_[i].offset + offset, count);
}

void SafetensorsSink::complete(size_t i) {
  const Place& place = places_[i];
  const int64_t bytes = specs_[i].bytes();
  bool ahead = false, due = false;
  {
    const std::lock_guard lock(guard_);
    complete_.push_back(i);
    complete_bytes_ += bytes;
    place.output->unwritten += bytes;
    ahead = place.output->unwritten >= kWriteAhead;
    if (ahead) place.output->unwritten = 0;
    due = --place.output->missing == 0 || complete_bytes_ >= kClaimBytes ||
          std::chrono::steady_clock::now() - claimed_ > kClaimTime;
  }
  if (!options_.journal) return;
  if (ahead) place.output->file.start_writing(0, 0);
  if (due) claim();
}

void SafetensorsSink::claim() {
  const std::lock_guard one_at_a_time(claiming_);
  std::vector<size_t> tensors;
  {
    const std::lock_guard lock(guard_);
    tensors.swap(complete_);
    complete_bytes_ = 0;
    claimed_ = std::chrono::steady_clock::now();
  }
  if (tensors.empty()) return;
  std::set<Output*> written;
  for (const size_t i : tensors) written.insert(places_[i].output);
  for (Output* output : written) {
    output->file.sync();
    if (options_.forget) output->file.forget(0, 0);
  }
  if (!names_synced_) sync_folder(folder_);
  names_synced_ = true;
  if (options_.check) options_.check();
  std::ranges::sort(tensors);
  options_.journal->add(claim_of(tensors));
}

void SafetensorsSink::finish() {
  if (options_.journal) claim();
  if (!options_.only.empty()) return;
  if (const std::string index = shard_index(specs_, shards_); !index.empty())
    write_file(folder_ / kShardIndex, index);
}

}  // namespace moerge
