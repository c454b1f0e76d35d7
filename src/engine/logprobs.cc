#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "engine/row_math.h"

namespace polylora {

Logprobs::Logprobs(int vocab_size)
    : maxima_(row_math::blocks(static_cast<size_t>(vocab_size))),
      sums_(row_math::blocks(static_cast<size_t>(vocab_size))) {}

std::vector<TokenLogprob> Logprobs::of(std::span<const float> logits, int32_t token, int top) {
  row_math::block_maxima(logits, maxima_);
  const float max = *std::ranges::max_element(maxima_);
  row_math::exp_blocks(logits, max, 1.0f, {}, sums_);
  const double log_sum = max + std::log(std::accumulate(sums_.begin(), sums_.end(), 0.0));
  find_top(logits, std::min(static_cast<size_t>(top), logits.size()));

  std::vector<TokenLogprob> result;
  result.reserve(1 + top_.size());
  const auto add = [&](int32_t id, int32_t rank) {
    const double logprob = static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum;
    result.push_back({id, static_cast<float>(logprob), rank});
  };
  add(token, 1 + row_math::count_before(logits, token));
  for (const int32_t id : top_) add(id, static_cast<int32_t>(result.size()));
  return result;
}

// As in Distribution::keep_top_k, the block maxima bound the k-th largest logit from below.
void Logprobs::find_top(std::span<const float> logits, size_t top) {
  top_.clear();
  if (top == 0) return;
  float threshold = row_math::kMasked;
  if (top <= maxima_.size()) {
    scratch_ = maxima_;
    const auto kth = scratch_.begin() + static_cast<int64_t>(top) - 1;
    std::nth_element(scratch_.begin(), kth, scratch_.end(), std::greater<>());
    threshold = *kth;
  }
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (maxima_[block] < threshold) continue;
    const size_t end = std::min(logits.size(), (block + 1) * row_math::kBlock);
    for (size_t id = block * row_math::kBlock; id < end; ++id) {
      if (logits[id] >= threshold) top_.push_back(static_cast<int32_t>(id));
    }
  }
  const auto before = [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  top = std::min(top, top_.size());
  std::partial_sort(top_.begin(), top_.begin() + static_cast<int64_t>(top), top_.end(), before);
  top_.resize(top);
}

}  // namespace polylora
