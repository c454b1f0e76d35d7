// Several examples in one row, so that short ones do not leave a batch mostly empty.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tune/data/example.h"

namespace polylora {

/// Bins of indices into `lengths`, none above `capacity` in sum: the longest example that still fits goes in
/// next, of equally long ones the last. All lengths must be <= capacity.
std::vector<std::vector<size_t>> greedy_knapsack(std::span<const size_t> lengths, size_t capacity);

/// Packs `examples` (each at most `capacity` long) into rows; positions restart per example. `neat`: they do
/// not see each other (Example::segments). No padding.
std::vector<Example> pack_examples(std::span<const Example> examples, size_t capacity, bool neat);

/// For stage pt: all examples one after the other, cut into blocks of `block_len` that know no documents; the
/// rest is dropped. The tokens are labelled.
std::vector<Example> cut_blocks(std::span<const Example> examples, size_t block_len);

}  // namespace polylora
