// Log-probabilities of tokens under the unmodified softmax of a row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace polylora {

/// A reusable workspace. A row gives the same bits whichever rows came before.
class Logprobs {
 public:
  explicit Logprobs(int vocab_size);

  /// `token` first, then the `top` most likely (equal logits: lower id first), each with its rank.
  std::vector<TokenLogprob> of(std::span<const float> logits, int32_t token, int top);

 private:
  void find_top(std::span<const float> logits, size_t top);

  std::vector<float> maxima_, scratch_;
  std::vector<double> sums_;
  std::vector<int32_t> top_;
};

}  // namespace polylora
