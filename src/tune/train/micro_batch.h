// Examples laid out as one batch: rows end to end, no padding, each sequence attending to itself only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/batch.h"
#include "tune/data/example.h"

namespace polylora {

struct MicroBatch {
  Batch batch;                        // T rows; its spans point into `pages`
  std::vector<int32_t> pages;         // of a one-layer KV cache, handed out in order
  std::vector<int32_t> target_rows;   // [M] rows at which a loss is taken: labels shifted by one
  std::vector<int32_t> targets;       // [M] the token that each of them should predict
  std::vector<int32_t> target_owner;  // [M] index into the examples that this was made from
  std::vector<uint64_t> row_keys;     // [T] RandomKeys::rows
  std::vector<int32_t> row_lengths;   // [T] length of the row's example (NEFTune scales by it)

  int rows() const { return batch.rows(); }
};

/// `keys`: one per example, the random key of the example in this update. M may be 0.
MicroBatch make_micro_batch(std::span<const Example* const> examples, std::span<const uint64_t> keys);

/// Tokens at which a loss is taken.
int64_t count_targets(const Example& example);

/// Cuts a list of examples, in order, into runs of at most `max_rows` rows (a longer example stands alone):
/// ends[i] is one past the last example of run i.
std::vector<size_t> cut_by_rows(std::span<const Example* const> examples, int max_rows);

}  // namespace polylora
