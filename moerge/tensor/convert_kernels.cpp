#include "moerge/tensor/convert_kernels.h"

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <cstring>

#include "moerge/tensor/convert.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace moerge {
namespace {

// One row per type: what it is stored as, and its way into and out of float32.
struct F64 {
  using Bits = double;
  static constexpr DType dtype = DType::f64;
  static float read(double value) { return static_cast<float>(value); }
  static double write(float value) { return value; }
};
struct F32 {
  using Bits = float;
  static constexpr DType dtype = DType::f32;
  static float read(float value) { return value; }
  static float write(float value) { return value; }
};
struct F16 {
  using Bits = uint16_t;
  static constexpr DType dtype = DType::f16;
  static constexpr int fraction = 10, bias = 15, infinity = 0x7c00, nan = 0x7e00;
  static constexpr bool signed_nan = true;
  static float read(uint16_t bits) { return f16_to_f32(bits); }
  static uint16_t write(float value) { return f32_to_f16(value); }
};
struct Bf16 {
  using Bits = uint16_t;
  static constexpr DType dtype = DType::bf16;
  static constexpr int fraction = 7, bias = 127, infinity = 0x7f80, nan = 0x7fc0;
  static constexpr bool signed_nan = false;
  static float read(uint16_t bits) { return bf16_to_f32(bits); }
  static uint16_t write(float value) { return f32_to_bf16(value); }
};
struct F8E4M3 {
  using Bits = uint8_t;
  static constexpr DType dtype = DType::f8_e4m3;
  static constexpr int fraction = 3, bias = 7, infinity = 0x7f, nan = 0x7f;  // has no infinity
  static float read(uint8_t bits) { return f8_e4m3_to_f32(bits); }
};
struct F8E5M2 {
  using Bits = uint8_t;
  static constexpr DType dtype = DType::f8_e5m2;
  static constexpr int fraction = 2, bias = 15, infinity = 0x7c, nan = 0x7d;
  static float read(uint8_t bits) { return f8_e5m2_to_f32(bits); }
};

// Has no branches, so that compilers vectorise it for the instructions of the function that it is inlined
// into. Elements are read and written with memcpy because a safetensors tensor may start at any byte.
template <typename From, typename To>
[[gnu::always_inline]] inline void convert_loop(const std::byte* __restrict source,
                                                std::byte* __restrict target, size_t n) {
  for (size_t i = 0; i < n; i++) {
    typename From::Bits from;
    std::memcpy(&from, source + i * sizeof from, sizeof from);
    const typename To::Bits to = To::write(From::read(from));
    std::memcpy(target + i * sizeof to, &to, sizeof to);
  }
}

struct Vector16 {
  using Narrow [[gnu::vector_size(8)]] = uint8_t;
  using Wide [[gnu::vector_size(16)]] = uint16_t;
};
struct Vector32 {
  using Narrow [[gnu::vector_size(16)]] = uint8_t;
  using Wide [[gnu::vector_size(32)]] = uint16_t;
};
struct Vector64 {
  using Narrow [[gnu::vector_size(32)]] = uint8_t;
  using Wide [[gnu::vector_size(64)]] = uint16_t;
};

// 8 bits into 16 need no float32: twice as many of them fit a vector. The fraction moves up, and the exponent
// gets the other bias. A subnormal becomes normal: its uppermost bit, `missing` places below where a normal
// one has it, moves up to where it adds 1 to the exponent. GCC computes in 32 bits unless it is told the
// vectors.
template <typename Vector, typename From, typename To>
[[gnu::always_inline]] inline void widen_loop(const std::byte* __restrict source,
                                              std::byte* __restrict target, size_t n) {
  using Wide = typename Vector::Wide;
  constexpr size_t step = sizeof(typename Vector::Narrow);
  constexpr int up = To::fraction - From::fraction, rebias = To::bias - From::bias;
  size_t i = 0;
  for (; i + step <= n; i += step) {
    typename Vector::Narrow bits;
    std::memcpy(&bits, source + i, sizeof bits);
    const Wide all = __builtin_convertvector(bits, Wide), magnitude = all & 0x7f, sign = (all & 0x80) << 8;
    Wide wide = (magnitude << up) + (rebias << To::fraction);
    if constexpr (rebias > 0) {
      for (int missing = 1; missing <= From::fraction; missing++) {
        const auto limit = static_cast<uint16_t>(2 << (From::fraction - missing));
        const auto exponent = static_cast<uint16_t>((rebias - missing) << To::fraction);
        wide = magnitude < limit ? (magnitude << (up + missing)) + exponent : wide;
      }
      wide = magnitude == 0 ? Wide{} : wide;
    }
    wide = magnitude >= From::infinity ? Wide{} + To::infinity : wide;
    wide |= sign;
    wide = magnitude >= From::nan ? (Wide{} + To::nan) | (To::signed_nan ? sign : Wide{}) : wide;
    std::memcpy(target + i * 2, &wide, sizeof wide);
  }
  convert_loop<From, To>(source + i, target + i * 2, n - i);
}

// The way from 8 bits to 16, and any other.
template <typename Vector, typename From, typename To>
[[gnu::always_inline]] inline void convert_any(const std::byte* source, std::byte* target, size_t n) {
  if constexpr (sizeof(typename From::Bits) == 1 && sizeof(typename To::Bits) == 2)
    widen_loop<Vector, From, To>(source, target, n);
  else
    convert_loop<From, To>(source, target, n);
}

template <typename From, typename To>
struct Baseline {
  static void convert(const std::byte* source, std::byte* target, size_t n) {
    convert_any<Vector16, From, To>(source, target, n);
  }
};

#if defined(__x86_64__)

// Of 16 elements at a time: what compilers do not find by themselves, the processor's own conversion of
// halves. It keeps the payload of what is not a number, which is put right afterwards.
template <typename From, typename To>
constexpr bool kHalves = (std::same_as<To, F16> && (std::same_as<From, F32> || std::same_as<From, Bf16>)) ||
                         (std::same_as<From, F16> && std::same_as<To, Bf16>);

#define MOERGE_AVX2 [[gnu::target("avx2,f16c")]]

MOERGE_AVX2 inline __m256i load(const std::byte* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(bytes));
}
MOERGE_AVX2 inline __m256i are_nan(__m256i halves) {
  return _mm256_cmpgt_epi16(_mm256_and_si256(halves, _mm256_set1_epi16(0x7fff)), _mm256_set1_epi16(0x7c00));
}
MOERGE_AVX2 inline __m256i to_halves(__m256 low, __m256 high) {
  const __m256i halves = _mm256_set_m128i(_mm256_cvtps_ph(high, 0), _mm256_cvtps_ph(low, 0));
  return _mm256_andnot_si256(_mm256_and_si256(are_nan(halves), _mm256_set1_epi16(0x1ff)), halves);
}
// As f32_to_bf16() does it, in the lower 16 bits.
MOERGE_AVX2 inline __m256i round_to_bf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
}

template <typename From, typename To>
MOERGE_AVX2 void convert_halves(const std::byte* source, std::byte* target, size_t n) {
  constexpr size_t step = 16;
  size_t i = 0;
  for (; i + step <= n; i += step) {
    const std::byte* from = source + i * sizeof(typename From::Bits);
    const __m256i first = load(from);
    __m256i to;
    if constexpr (std::same_as<From, F32>) {
      to = to_halves(_mm256_castsi256_ps(first), _mm256_castsi256_ps(load(from + 32)));
    } else if constexpr (std::same_as<From, Bf16>) {
      const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(first));
      const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(first, 1));
      to = to_halves(_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
                     _mm256_castsi256_ps(_mm256_slli_epi32(high, 16)));
    } else {
      const __m256i low = round_to_bf16(_mm256_cvtph_ps(_mm256_castsi256_si128(first)));
      const __m256i high = round_to_bf16(_mm256_cvtph_ps(_mm256_extracti128_si256(first, 1)));
      const __m256i rounded = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11'01'10'00);
      to = _mm256_blendv_epi8(rounded, _mm256_set1_epi16(Bf16::nan), are_nan(first));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(target + i * 2), to);
  }
  convert_loop<From, To>(source + i * sizeof(typename From::Bits), target + i * 2, n - i);
}

template <typename From, typename To>
struct Avx2 {
  MOERGE_AVX2 static void convert(const std::byte* source, std::byte* target, size_t n) {
    if constexpr (kHalves<From, To>)
      convert_halves<From, To>(source, target, n);
    else
      convert_any<Vector32, From, To>(source, target, n);
  }
};
bool has_avx2() {
  unsigned eax, ebx, ecx, edx;  // not every compiler knows "f16c" as a name
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

template <typename From, typename To>
struct Avx512 {
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]] static void convert(const std::byte* source,
                                                                            std::byte* target, size_t n) {
    if constexpr (kHalves<From, To>)
      convert_halves<From, To>(source, target, n);
    else
      convert_any<Vector64, From, To>(source, target, n);
  }
};
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

template <template <typename, typename> typename Set, typename From, typename... To>
Converter find_target(DType to) {
  Converter found = nullptr;
  const auto look = [&]<typename Type>() {
    if constexpr (!std::same_as<From, Type>)
      if (Type::dtype == to) found = Set<From, Type>::convert;
  };
  (look.template operator()<To>(), ...);
  return found;
}
template <template <typename, typename> typename Set, typename... From>
Converter find_source(DType from, DType to) {
  Converter found = nullptr;
  ((From::dtype == from ? void(found = find_target<Set, From, F64, F32, F16, Bf16>(to)) : void()), ...);
  return found;
}
template <template <typename, typename> typename Set>
Converter find(DType from, DType to) {
  return find_source<Set, F64, F32, F16, Bf16, F8E4M3, F8E5M2>(from, to);
}

bool always() { return true; }

constexpr auto kSets = std::to_array<ConverterSet>({
#if defined(__x86_64__)
  {"avx512", has_avx512, find<Avx512>}, {"avx2", has_avx2, find<Avx2>},
#endif
      {"baseline", always, find<Baseline>},  // on aarch64 with NEON
});

}  // namespace

std::span<const ConverterSet> converter_sets() { return kSets; }

Converter find_converter(DType from, DType to) {
  static const ConverterSet& best =
      *std::ranges::find_if(kSets, [](const auto& set) { return set.runs_here(); });
  return best.find(from, to);
}

}  // namespace moerge
