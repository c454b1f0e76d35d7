#include "engine/row_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace polylora::row_math {
namespace {

// Compiler vectors of the size that every supported machine has (SSE2, NEON): the same lanes everywhere,
// hence the same order of every sum.
constexpr int kLanes = 4;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

Floats load(const float* x) {
  Floats v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

/// exp(t) for t <= 0, 0 below the smallest normal number and for NaN. Cephes' expf polynomial.
Floats exp_of_nonpositive(Floats t) {
  constexpr float kLowest = -87.0f;
  const Ints in_range = t >= kLowest;  // false for NaN
  t = in_range ? t : Floats{} + kLowest;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Floats rounded = t * 1.44269504f + kRound;
  Ints power;
  std::memcpy(&power, &rounded, sizeof power);
  const Floats n = rounded - kRound;
  const Floats r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints bits;
  std::memcpy(&bits, &p, sizeof bits);
  bits += power << 23;  // the magic number's own bits fall off at the top
  bits &= in_range;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

float sum_lanes(Floats v) {
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
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
  float space[kBlock];
  for (size_t block = 0; block < blocks(x.size()); ++block) {
    const float* values = whole_block(x, block, kMasked, space);
    Floats largest = Floats{} + kMasked;
    for (int i = 0; i < kBlock; i += kLanes) {
      const Floats v = load(values + i);
      largest = v > largest ? v : largest;
    }
    float result = kMasked;
    for (int lane = 0; lane < kLanes; ++lane) result = std::max(result, largest[lane]);
    maxima[block] = result;
  }
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
  float space[kBlock];
  float terms[kBlock];
  for (size_t block = 0; block < blocks(x.size()); ++block) {
    const float* values = whole_block(x, block, kMasked, space);
    Floats sum{};
    for (int i = 0; i < kBlock; i += kLanes) {
      const Floats e = exp_of_nonpositive((load(values + i) - shift) * scale);
      sum += e;
      std::memcpy(terms + i, &e, sizeof e);
    }
    sums[block] = sum_lanes(sum);
    if (out.empty()) continue;
    const auto rest = out.subspan(block * kBlock);
    std::copy_n(terms, std::min<size_t>(kBlock, rest.size()), rest.begin());
  }
}

int32_t count_before(std::span<const float> x, int32_t index) {
  const auto at = static_cast<size_t>(index);
  const float value = x[at];
  Ints counts{};
  size_t i = 0;
  for (; i + kLanes <= at; i += kLanes) counts -= load(&x[i]) >= value;  // true is -1
  int32_t count = 0;
  for (; i < at; ++i) count += x[i] >= value;
  for (i = at + 1; i % kLanes != 0 && i < x.size(); ++i) count += x[i] > value;
  for (; i + kLanes <= x.size(); i += kLanes) counts -= load(&x[i]) > value;
  for (; i < x.size(); ++i) count += x[i] > value;
  for (int lane = 0; lane < kLanes; ++lane) count += counts[lane];
  return count;
}

}  // namespace polylora::row_math
