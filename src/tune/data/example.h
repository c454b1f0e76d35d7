// What the trainer learns from: token ids with labels, and nothing of the text they came from.
#pragma once

#include <cstdint>
#include <vector>

namespace polylora {

/// transformers' -100: a position that no loss is taken at.
inline constexpr int32_t kIgnoreIndex = -100;

/// One row of a training batch: one conversation, or several packed together.
struct Example {
  std::vector<int32_t> input_ids;  // [L], L >= 1
  std::vector<int32_t>
      labels;  // [L], unshifted as in transformers: labels[t] is input_ids[t] or kIgnoreIndex,
               // and the loss at position t compares logits[t] with labels[t + 1]
  std::vector<int32_t> positions;  // [L] rotary positions; empty: 0..L-1. Packed rows restart per example
  /// Rows that do not see each other (neat_packing): the first row of each, ascending from 0. Empty: all rows
  /// are one sequence, also when several examples were packed into it (plain packing, as the peer does it).
  std::vector<int32_t> segments;
};

/// For stage dpo: the same prompt with two answers, only the answers labelled.
struct PreferencePair {
  Example chosen;
  Example rejected;
};

}  // namespace polylora
