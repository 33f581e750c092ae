#pragma once
// Memory that a thread keeps from one block of a merge to the next.

#include <cstddef>
#include <span>
#include <vector>

namespace moerge {

/// A set of buffers that nothing else on this thread uses while the object lives: a merge of merges holds
/// several sets at a time. What they hold at first is not said.
class Buffers {
 public:
  Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers();

  /// Each number is a buffer of its own. The span stays valid until the same number is asked for again.
  std::span<float> floats(size_t number, size_t size);
  std::span<std::byte> bytes(size_t number, size_t size);

 private:
  struct Kept {
    std::vector<std::vector<float>> floats;
    std::vector<std::vector<std::byte>> bytes;
  };
  static std::vector<Kept>& pool();

  Kept mine_;
};

}  // namespace moerge
