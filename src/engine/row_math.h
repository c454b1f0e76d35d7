// Linear passes over one row of logits: what the sampler spends its time on.
//
// A row is seen as blocks of kBlock values. The maxima of the blocks bound what is inside, so that selecting
// the k largest of 150 000 logits reads most blocks' maximum only. Every sum has a fixed order: a row gives
// the same bits on every machine, thread and batch.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace polylora::row_math {

inline constexpr int kBlock = 64;
inline constexpr float kMasked = -std::numeric_limits<float>::infinity();

inline size_t blocks(size_t values) {
  return (values + kBlock - 1) / kBlock;
}

/// maxima[b] = largest value of block b; NaN is ignored, a block of nothing else gives -inf.
void block_maxima(std::span<const float> x, std::span<float> maxima);

/// The first index of the largest value; 0 when there is none.
int32_t argmax(std::span<const float> x, std::span<const float> maxima);

/// sums[b] = sum over block b of exp((x - shift) * scale), relative error below 1e-6; the terms go to `out`
/// unless it is empty. shift is the maximum of x, scale > 0; NaN and -inf count as 0.
void exp_blocks(std::span<const float> x, float shift, float scale, std::span<float> out,
                std::span<double> sums);

/// How many values are greater than x[index], or equal with a lower index.
int32_t count_before(std::span<const float> x, int32_t index);

}  // namespace polylora::row_math
