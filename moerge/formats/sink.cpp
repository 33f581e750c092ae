#include "moerge/formats/sink.h"

#include <algorithm>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/safetensors.h"

namespace moerge {

std::vector<Shard> plan_shards(std::span<const TensorSpec> specs, int64_t max_bytes) {
  std::vector<Shard> shards;
  int64_t used = 0;
  for (size_t i = 0; i < specs.size(); i++) {
    const int64_t bytes = specs[i].bytes();
    if (shards.empty() || (!shards.back().tensors.empty() && used + bytes > max_bytes)) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().tensors.push_back(i);
    used += bytes;
  }
  for (size_t i = 0; i < shards.size(); i++)
    shards[i].file = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  return shards;
}

SafetensorsSink::SafetensorsSink(std::filesystem::path folder, int64_t max_shard_bytes)
    : folder_(std::move(folder)), max_shard_bytes_(max_shard_bytes) {}

void SafetensorsSink::begin(std::span<const TensorSpec> specs) {
  specs_.assign(specs.begin(), specs.end());
  shards_ = plan_shards(specs_, max_shard_bytes_);
  places_.resize(specs_.size());
  for (const Shard& shard : shards_) {
    std::vector<TensorSpec> inside;
    for (size_t i : shard.tensors) inside.push_back(specs_[i]);
    const std::string header = safetensors_header(inside);
    Output& output = outputs_.emplace_back(File::create(folder_ / shard.file));
    int64_t offset = std::ssize(header);
    for (size_t i : shard.tensors) {
      places_[i] = {&output, offset};
      offset += specs_[i].bytes();
    }
    output.file.write_at(0, std::as_bytes(std::span(header)));
    output.file.resize(offset);
  }
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

void SafetensorsSink::finish() {
  if (shards_.size() <= 1) return;
  int64_t total = 0;
  std::vector<std::pair<std::string, std::string>> names;
  for (const Shard& shard : shards_)
    for (size_t i : shard.tensors) {
      names.emplace_back(specs_[i].name, shard.file);
      total += specs_[i].bytes();
    }
  std::ranges::sort(names);
  Json::object_t weights;
  for (auto& [name, file] : names) weights.push_back({name, file});
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weights)}};
  write_file(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

void ComparingSink::begin(std::span<const TensorSpec> specs) {
  for (const TensorSpec& spec : specs) {
    const StoredTensor& stored = written_.at(spec.name);
    if (stored.spec.dtype != spec.dtype || stored.spec.shape != spec.shape)
      fail(ErrorKind::input, "{}: \"{}\" is {} {}, expected {} {}", written_.path().string(), spec.name,
           info(stored.spec.dtype).name(), to_string(stored.spec.shape), info(spec.dtype).name(),
           to_string(spec.shape));
    tensors_.push_back(&stored);
  }
}

void ComparingSink::put(size_t i, int64_t offset, std::span<const std::byte> bytes) {
  const std::span<const std::byte> found =
      tensors_[i]->view().bytes.subspan(static_cast<size_t>(offset), bytes.size());
  if (std::memcmp(found.data(), bytes.data(), bytes.size()) != 0)
    fail(ErrorKind::input, "{}: \"{}\" differs from what it was made of", written_.path().string(),
         tensors_[i]->spec.name);
  tensors_[i]->file->release(found);
}

void ComparingSink::copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
                         int64_t count) {
  constexpr int64_t kStep = 16 << 20;  // keeps little of both files resident
  for (int64_t done = 0; done < count; done += kStep) {
    check_interrupted();
    const auto part = source.bytes().subspan(static_cast<size_t>(source_offset + done),
                                             static_cast<size_t>(std::min(kStep, count - done)));
    put(i, offset + done, part);
    source.release(part);
  }
}

void ComparingSink::finish() {
  if (written_.tensors().size() != tensors_.size())
    fail(ErrorKind::input, "{}: {} tensors, expected {}", written_.path().string(), written_.tensors().size(),
         tensors_.size());
}

}  // namespace moerge
