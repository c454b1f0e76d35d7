// What a request's parameters do to its logits before anything is drawn, in vLLM's order: the grammar,
// allowed ids, bad words, min_tokens, logit_bias, repetition, frequency and presence penalties.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace polylora {

/// What sampling one token depends on, besides the logits.
struct SamplingInput {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;  // sampled so far
  std::span<const int32_t> eos_ids;
  int vocab_size = 0;  // of the row: what the logits have beyond it is not looked at; 0: all
  uint64_t key = 0;    // of the random numbers; the counter is output.size()
  TokenConstraint* constraint = nullptr;
};

class LogitsProcessors {
 public:
  explicit LogitsProcessors(int vocab_size) : counts_(static_cast<size_t>(vocab_size)) {}

  /// Changes `logits` in place. Token ids must lie within the vocabulary.
  void apply(std::span<float> logits, const SamplingInput& input);

 private:
  /// False when the output must end now.
  bool constrain(std::span<float> logits, const SamplingInput& input);
  void keep_allowed(std::span<float> logits, std::span<const int32_t> allowed);
  void penalise_repetition(std::span<float> logits, const SamplingInput& input);
  void penalise_output(std::span<float> logits, const SamplingInput& input);

  std::vector<int32_t> counts_;  // by token id; all zero between calls
  std::vector<float> saved_;
};

}  // namespace polylora
