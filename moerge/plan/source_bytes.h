#pragma once
// How much of the source files is read.

#include <cstdint>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/plan/plan.h"

namespace moerge {

/// Distinct bytes of distinct files: what lies under several tensors counts once, and so does a file that is
/// open several times or under several names.
class SourceBytes {
 public:
  /// With all that it is computed from.
  void add(const StoredTensor& tensor);
  /// Every source of a plan.
  void add(const Plan& plan);

  int64_t bytes() const;
  /// Of one file, by its canonical path: [begin, end), in no order, possibly over each other.
  std::vector<std::pair<int64_t, int64_t>> ranges(const std::filesystem::path& file) const;
  int64_t files() const { return std::ssize(ranges_); }

 private:
  using Range = std::pair<int64_t, int64_t>;  // begin, end
  std::map<const MappedFile*, std::filesystem::path> names_;
  std::map<std::filesystem::path, std::vector<Range>> ranges_;
};

}  // namespace moerge
