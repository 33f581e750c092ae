// The conversions of moerge/tensor/convert.h against memcpy() of as many bytes: convert [ROUNDS]. Prints a
// Markdown table, GB/s read and written and the ratio to memcpy(), medians of the rounds; memcpy() runs in
// each round beside the conversion. Run it when nothing else runs.
#include "moerge/tensor/convert.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "moerge/base/parallel.h"

namespace {

using namespace moerge;

constexpr size_t kChunk = 64 * 1024;            // elements, what a build converts at a time
constexpr size_t kElements = 96 * 1024 * 1024;  // more than any cache holds, of the narrowest type too

constexpr DType kPairs[][2] = {
    {DType::bf16, DType::f32},    {DType::f16, DType::f32},      {DType::f8_e4m3, DType::f32},
    {DType::f8_e5m2, DType::f32}, {DType::f32, DType::bf16},     {DType::f32, DType::f16},
    {DType::bf16, DType::f16},    {DType::f16, DType::bf16},     {DType::f8_e4m3, DType::bf16},
    {DType::f8_e4m3, DType::f16}, {DType::f8_e5m2, DType::bf16}, {DType::f8_e5m2, DType::f16},
};

// Where the bytes come from and go to.
struct Place {
  const char* title;
  bool source_in_memory, target_in_memory;
};
constexpr Place kPlaces[] = {
    {"cache to cache", false, false}, {"memory to cache", true, false}, {"memory to memory", true, true}};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Every thread its own share of the chunks; use(source, target) for each, at byte `in` and `out` of a chunk.
void each_chunk(const Place& place, int threads, size_t in, size_t out, std::span<std::byte> source,
                std::span<std::byte> target, const std::function<void(const std::byte*, std::byte*)>& use) {
  const size_t chunks = kElements / kChunk, share = chunks / static_cast<size_t>(threads);
  parallel_for(static_cast<size_t>(threads), threads, [&](size_t thread) {
    for (size_t i = thread * share; i < (thread + 1) * share; i++)
      use(source.data() + (place.source_in_memory ? i : thread) * in,
          target.data() + (place.target_in_memory ? i : thread) * out);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9, all = default_threads();
  if (argc > 2 || rounds < 1) return std::fputs("usage: convert [ROUNDS]\n", stderr), 2;
  std::vector<std::byte> source(kElements * 4), target(kElements * 4);
  for (size_t i = 0; i < source.size(); i++) source[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  std::vector<int> thread_counts = {1};
  if (all > 1) thread_counts.push_back(all);

  std::string head = "| conversion |", rule = "|---|";
  for (const Place& place : kPlaces)
    for (int threads : thread_counts) {
      head += std::string(" ") + place.title + ", " + std::to_string(threads) +
              (threads > 1 ? " threads |" : " thread |");
      rule += "---|";
    }
  std::printf("%s\n%s\n", head.c_str(), rule.c_str());
  for (const auto& [from, to] : kPairs) {
    std::printf("| %s to %s |", std::string(info(from).name()).c_str(), std::string(info(to).name()).c_str());
    const size_t in = kChunk * static_cast<size_t>(info(from).bytes),
                 out = kChunk * static_cast<size_t>(info(to).bytes);
    for (const Place& place : kPlaces) {
      const size_t copied = place.source_in_memory && !place.target_in_memory ? in : (in + out) / 2;
      for (int threads : thread_counts) {
        std::vector<double> rates, ratios;
        for (int round = 0; round <= rounds; round++) {
          const double converting = seconds([&] {
            each_chunk(place, threads, in, out, source, target, [&](const std::byte* a, std::byte* b) {
              convert(from, {a, in}, to, {b, out});
            });
          });
          const double copying = seconds([&] {
            each_chunk(place, threads, copied, copied, source, target,
                       [&](const std::byte* a, std::byte* b) { std::memcpy(b, a, copied); });
          });
          if (round == 0) continue;  // warms up
          rates.push_back(static_cast<double>((in + out) * (kElements / kChunk)) / 1e9 / converting);
          ratios.push_back(copying / converting);
        }
        std::printf(" %.1f (%.2f) |", median(rates), median(ratios));
        std::fflush(stdout);
      }
    }
    std::printf("\n");
  }
}
