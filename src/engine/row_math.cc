#include "engine/row_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace polylora::row_math {
namespace {

// Compiler vectors: four lanes are on every supported machine (SSE2, NEON), eight need AVX2. A value's bits
// do not depend on the lanes it is computed in (there are no fused multiply-adds), and sums always have four.
template <int kLanes>
struct Lanes {
  static constexpr int kCount = kLanes;
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
  typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));  // may overflow
};
using Baseline = Lanes<4>;

// What is to be compiled for the instruction set of its caller.
#define POLYLORA_INLINE __attribute__((always_inline))

#if defined(__x86_64__)
template <typename Pass>
__attribute__((target("avx2"))) void run_with_avx2(const Pass& pass) {
  pass(Lanes<8>());
}
#endif

/// Runs pass(Lanes<N>()) with the most lanes that this machine has.
template <typename Pass>
void run_widest(const Pass& pass) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return run_with_avx2(pass);
#endif
  pass(Baseline());
}

template <typename L>
POLYLORA_INLINE inline void load(const float* x, typename L::Floats& v) {
  std::memcpy(&v, x, sizeof v);
}

/// v = exp(v) for v <= 0, 0 below the smallest normal number and for NaN. Cephes' expf polynomial.
template <typename L>
POLYLORA_INLINE inline void exp_of_nonpositive(typename L::Floats& v) {
  using F = typename L::Floats;
  using Bits = typename L::Bits;
  constexpr float kLowest = -87.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const auto in_range = v >= kLowest;    // false for NaN; what is out of range is computed, but masked off
  const F rounded = v * 1.44269504f + kRound;
  Bits power;
  std::memcpy(&power, &rounded, sizeof power);
  const F n = rounded - kRound;
  const F r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Bits bits;
  std::memcpy(&bits, &p, sizeof bits);
  bits += power << 23;     // the magic number's own bits fall off at the top
  bits &= (Bits)in_range;  // the same bits
  std::memcpy(&v, &bits, sizeof v);
}

template <typename L>
POLYLORA_INLINE inline float max_of_block(const float* values) {
  using F = typename L::Floats;
  F largest = F{} + kMasked;
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; i += L::kCount) {
    typename L::Floats v;
    load<L>(values + i, v);
    largest = v > largest ? v : largest;
  }
  float result = kMasked;
  for (int lane = 0; lane < L::kCount; ++lane) result = std::max(result, largest[lane]);
  return result;
}

template <typename L>
POLYLORA_INLINE inline void exp_of_block(const float* values, float shift, float scale, float* terms) {
  for (int i = 0; i < kBlock; i += L::kCount) {
    typename L::Floats v;
    load<L>(values + i, v);
    v = (v - shift) * scale;
    exp_of_nonpositive<L>(v);
    std::memcpy(terms + i, &v, sizeof v);
  }
}

POLYLORA_INLINE inline float sum_of_block(const float* terms) {
  Baseline::Floats sum{};
#pragma GCC unroll 16
  for (int i = 0; i < kBlock; i += Baseline::kCount) {
    Baseline::Floats v;
    load<Baseline>(terms + i, v);
    sum += v;
  }
  float result = 0;
  for (int lane = 0; lane < Baseline::kCount; ++lane) result += sum[lane];
  return result;
}

/// The block as kBlock values, a short last one filled up with `filler` in `space`.
const float* whole_block(std::span<const float> x, size_t block, float filler, float* space) {
  const auto rest = x.subspan(block * kBlock);
  if (rest.size() >= kBlock) return rest.data();
  std::fill_n(std::copy(rest.begin(), rest.end(), space), kBlock - rest.size(), filler);
  return space;
}

}  // namespace

void block_maxima(std::span<const float> x, std::span<float> maxima) {
  run_widest([&]<typename L>(L) POLYLORA_INLINE {
    float space[kBlock];
    for (size_t block = 0; block < blocks(x.size()); ++block)
      maxima[block] = max_of_block<L>(whole_block(x, block, kMasked, space));
  });
}

int32_t argmax(std::span<const float> x, std::span<const float> maxima) {
  const auto block = static_cast<size_t>(std::ranges::max_element(maxima) - maxima.begin());
  const auto begin = x.begin() + static_cast<int64_t>(block) * kBlock;
  const auto end = begin + std::min<int64_t>(kBlock, x.end() - begin);
  const auto at = std::find(begin, end, maxima[block]);
  return at == end ? 0 : static_cast<int32_t>(at - x.begin());
}

void exp_blocks(std::span<const float> x, float shift, float scale, std::span<float> out,
                std::span<double> sums) {
  run_widest([&]<typename L>(L) POLYLORA_INLINE {
    float space[kBlock];
    float terms_space[kBlock];
    for (size_t block = 0; block < blocks(x.size()); ++block) {
      const float* values = whole_block(x, block, kMasked, space);
      const auto rest = out.empty() ? out : out.subspan(block * kBlock);
      float* terms = rest.size() < kBlock ? terms_space : rest.data();
      exp_of_block<L>(values, shift, scale, terms);
      sums[block] = sum_of_block(terms);
      if (terms == terms_space) std::copy_n(terms, rest.size(), rest.begin());
    }
  });
}

int32_t count_before(std::span<const float> x, int32_t index) {
  const auto at = static_cast<size_t>(index);
  const float value = x[at];
  constexpr int kLanes = Baseline::kCount;
  Baseline::Ints counts{};
  Baseline::Floats v;
  size_t i = 0;
  for (; i + kLanes <= at; i += kLanes) {
    load<Baseline>(&x[i], v);
    counts -= v >= value;  // true is -1
  }
  int32_t count = 0;
  for (; i < at; ++i) count += x[i] >= value;
  for (i = at + 1; i % kLanes != 0 && i < x.size(); ++i) count += x[i] > value;
  for (; i + kLanes <= x.size(); i += kLanes) {
    load<Baseline>(&x[i], v);
    counts -= v > value;
  }
  for (; i < x.size(); ++i) count += x[i] > value;
  for (int lane = 0; lane < kLanes; ++lane) count += counts[lane];
  return count;
}

}  // namespace polylora::row_math
