#include "moerge/merge/buffers.h"

namespace moerge {
namespace {

template <typename T>
std::span<T> buffer(std::vector<std::vector<T>>& buffers, size_t number, size_t size) {
  if (buffers.size() <= number) buffers.resize(number + 1);
  std::vector<T>& one = buffers[number];
  if (one.size() < size) one.resize(size);
  return std::span(one).first(size);
}

}  // namespace

std::vector<Buffers::Kept>& Buffers::pool() {
  static thread_local std::vector<Kept> kept;
  return kept;
}

Buffers::Buffers() {
  std::vector<Kept>& kept = pool();
  if (kept.empty()) return;
  mine_ = std::move(kept.back());
  kept.pop_back();
}

Buffers::~Buffers() { pool().push_back(std::move(mine_)); }

std::span<float> Buffers::floats(size_t number, size_t size) { return buffer(mine_.floats, number, size); }

std::span<std::byte> Buffers::bytes(size_t number, size_t size) { return buffer(mine_.bytes, number, size); }

}  // namespace moerge
