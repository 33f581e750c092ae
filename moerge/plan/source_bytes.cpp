#include "moerge/plan/source_bytes.h"

#include <algorithm>

namespace moerge {

void SourceBytes::add(const StoredTensor& tensor) {
  for (const StoredTensor* stored : stored_sources(tensor)) {
    std::filesystem::path& name = names_[stored->file];
    if (name.empty()) name = std::filesystem::weakly_canonical(stored->file->file().path());
    ranges_[name].push_back({stored->offset, stored->offset + stored->spec.bytes()});
  }
}

void SourceBytes::add(const Plan& plan) {
  for (const Step& step : plan.steps)
    if (const Concat* concat = std::get_if<Concat>(&step.how))
      for (const Part& part : concat->parts) add(*part.source);
}

std::vector<std::pair<int64_t, int64_t>> SourceBytes::ranges(const std::filesystem::path& file) const {
  const auto found = ranges_.find(file);
  return found == ranges_.end() ? std::vector<Range>{} : found->second;
}

int64_t SourceBytes::bytes() const {
  int64_t total = 0;
  for (const auto& [name, unsorted] : ranges_) {
    std::vector<Range> ranges = unsorted;
    std::ranges::sort(ranges);
    int64_t end = 0;
    for (const auto& [first, last] : ranges) {
      total += std::max<int64_t>(0, last - std::max(first, end));
      end = std::max(end, last);
    }
  }
  return total;
}

}  // namespace moerge
