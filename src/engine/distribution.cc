#include "engine/distribution.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "engine/row_math.h"

namespace polylora {
namespace {

using row_math::kBlock;
using row_math::kMasked;

constexpr float kLowestTemperature = 0.01f;  // vLLM's: lower ones overflow

constexpr float kRounding = 1e-4f;          // far more than the relative errors of weights and their sums
constexpr float kLightestFloor = 0x1p-30f;  // below it hardly a token is left to drop

// Sixteen buckets per power of two; weights lie in [0, 1].
constexpr int kBucketShift = 19;
size_t bucket_of(float weight) {
  return std::bit_cast<uint32_t>(weight) >> kBucketShift;
}

float median(float a, float b, float c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

}  // namespace

Distribution::Distribution(int vocab_size) {
  const auto size = static_cast<size_t>(vocab_size);
  for (std::vector<float>* values : {&values_, &weights_, &scratch_}) values->resize(size);
  ids_.resize(size);
  const size_t blocks = row_math::blocks(size);
  maxima_.resize(blocks);
  sums_.resize(blocks);
  heaviest_.resize(blocks);
  heaviest_sums_.resize(row_math::blocks(blocks));
  histogram_.resize(bucket_of(1.0f) + 1);
}

void Distribution::build(std::span<const float> logits, const SamplingParams& params) {
  logits_ = logits;
  row_math::block_maxima(logits, maxima_);
  max_ = *std::ranges::max_element(maxima_);
  scale_ = 1.0f / std::max(params.temperature, kLowestTemperature);
  all_ = true;
  if (!std::isfinite(max_)) return keep_only(row_math::argmax(logits, maxima_));
  const auto k = static_cast<size_t>(std::max(params.top_k, 0));
  if (k > 0 && k < logits.size()) keep_top_k(k);
  if (params.min_p > 0) keep_min_p(params.min_p);
  weigh();
  if (params.top_p < 1) keep_top_p(params.top_p);
}

/// For rows that have no softmax: everything masked, or infinities from a broken model.
void Distribution::keep_only(int32_t id) {
  all_ = false;
  kept_ = 1;
  ids_[0] = id;
  weights_[0] = 1.0f;
  sums_[0] = total_ = 1.0;
}

/// Narrows all tokens to those with a logit of at least `threshold`, masked ones never among them.
void Distribution::keep_from(float threshold) {
  threshold = std::max(threshold, std::numeric_limits<float>::lowest());
  all_ = false;
  kept_ = 0;
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (maxima_[block] < threshold) continue;
    const size_t end = std::min(logits_.size(), (block + 1) * kBlock);
    for (size_t id = block * kBlock; id < end; ++id) {  // no branches: which ones stay is hard to predict
      ids_[kept_] = static_cast<int32_t>(id);
      values_[kept_] = logits_[id];
      kept_ += logits_[id] >= threshold;
    }
  }
}

/// The same among the tokens kept so far.
void Distribution::narrow_from(float threshold) {
  size_t kept = 0;
  for (size_t i = 0; i < kept_; ++i) {
    ids_[kept] = ids_[i];
    values_[kept] = values_[i];
    kept += values_[i] >= threshold;
  }
  kept_ = kept;
}

// The k-th largest block maximum is a lower bound of the k-th largest value, and few values exceed it.
void Distribution::keep_top_k(size_t k) {
  const auto kth_largest = [&](std::span<const float> values) {
    const auto end = std::ranges::copy(values, scratch_.begin()).out;
    const auto kth = scratch_.begin() + static_cast<int64_t>(k) - 1;
    std::nth_element(scratch_.begin(), kth, end, std::greater<>());
    return *kth;
  };
  keep_from(k <= maxima_.size() ? kth_largest(maxima_) : kMasked);
  if (kept_ > k) narrow_from(kth_largest(std::span(values_).first(kept_)));
}

// exp((x - max) * scale) >= min_p, as a bound on x.
void Distribution::keep_min_p(float min_p) {
  const double lowest = max_ + std::log(static_cast<double>(min_p)) / scale_;
  const auto threshold = std::min(max_, static_cast<float>(lowest));
  all_ ? keep_from(threshold) : narrow_from(threshold);
}

void Distribution::weigh() {
  if (all_) kept_ = logits_.size();
  const std::span<const float> values = all_ ? logits_ : std::span<const float>(values_).first(kept_);
  const size_t blocks = row_math::blocks(kept_);
  row_math::exp_blocks(values, max_, scale_, std::span(weights_).first(kept_), sums_);
  total_ = std::accumulate(sums_.begin(), sums_.begin() + static_cast<int64_t>(blocks), 0.0);
}

void Distribution::keep_top_p(float top_p) {
  if (all_) drop_light(top_p);
  const Cut cut = find_cut(static_cast<double>(top_p) * total_);
  cut_off(cut);
  total_ = 0;
  for (size_t block = 0; block * kBlock < kept_; ++block) {
    const auto first = weights_.begin() + static_cast<int64_t>(block * kBlock);
    const size_t size = std::min<size_t>(kBlock, kept_ - block * kBlock);
    total_ += sums_[block] = std::accumulate(first, first + static_cast<int64_t>(size), 0.0);
  }
}

/// Up to the last tie to drop, what weighs as much as the cut goes; after it, such tokens stay.
void Distribution::cut_off(const Cut& cut) {
  if (all_) std::iota(ids_.begin(), ids_.end(), 0);
  all_ = false;
  size_t at = 0, kept = 0;
  const auto keep_until = [&](size_t end, float lightest) {
    for (; at < end; ++at) {
      ids_[kept] = ids_[at];
      weights_[kept] = weights_[at];
      kept += weights_[at] >= lightest;
    }
  };
  size_t last_dropped_end = 0;
  for (int64_t ties = cut.ties_to_drop; ties > 0; ++last_dropped_end)
    ties -= weights_[last_dropped_end] == cut.weight;
  keep_until(last_dropped_end, std::nextafter(cut.weight, 2.0f));
  keep_until(kept_, cut.weight);
  kept_ = kept;
}

/// Drops weighed tokens that top_p is sure to cut off, whole blocks of them by their maximum.
void Distribution::drop_light(float top_p) {
  const float floor = lightest_candidate(top_p);
  if (floor == 0) return;
  // What weighs `floor` must stay in spite of rounding.
  keep_from(max_ + std::log(floor * (1 - kRounding)) / scale_);
  for (size_t i = 0; i < kept_; ++i) weights_[i] = weights_[static_cast<size_t>(ids_[i])];
}

/// A weight such that what is lighter is all cut off, since together it weighs less than 1 - top_p; the
/// larger the better; 0 when nothing can be said.
float Distribution::lightest_candidate(float top_p) {
  const double spare = (1 - static_cast<double>(top_p) - kRounding) * total_;
  row_math::exp_blocks(maxima_, max_, scale_, heaviest_, heaviest_sums_);
  for (float floor = 0x1p-2f; floor >= kLightestFloor; floor *= 0x1p-2f)
    if (mass_below(floor) <= spare) return floor;
  return 0;
}

/// At least the mass of all tokens lighter than `floor`, from what is known of whole blocks.
double Distribution::mass_below(float floor) const {
  const double most = static_cast<double>(floor) * kBlock;
  double mass = 0;
  for (size_t block = 0; block < sums_.size(); ++block) {
    const bool heaviest_is_below = heaviest_[block] < floor;
    mass += std::min(sums_[block] - (heaviest_is_below ? 0.0 : heaviest_[block]), most);
  }
  return mass;
}

// Walking down from the heaviest token, tokens are kept until those before weigh `mass`. A histogram over the
// leading bits of the weights finds the bucket of the cut; only what is in that bucket is looked at closely.
Distribution::Cut Distribution::find_cut(double mass) {
  const auto weights = std::span<const float>(weights_).first(kept_);
  std::ranges::fill(histogram_, 0.0);
  for (const float weight : weights) histogram_[bucket_of(weight)] += weight;
  size_t bucket = histogram_.size() - 1;
  double above = 0;
  for (; bucket > 0 && above + histogram_[bucket] < mass; --bucket) above += histogram_[bucket];

  size_t size = 0;
  for (const float weight : weights) {
    scratch_[size] = weight;
    size += bucket_of(weight) == bucket;
  }
  return find_cut_among(std::span(scratch_).first(size), above, mass);
}

/// A selection by mass: each round halves, on average, the range in which the cut lies. `above` is what
/// everything heavier than `range` weighs.
Distribution::Cut Distribution::find_cut_among(std::span<float> range, double above, double mass) {
  const bool heaviest_inside = above == 0;
  auto begin = range.begin(), end = range.end();
  while (begin != end) {
    const float pivot = median(*begin, begin[(end - begin) / 2], end[-1]);
    const auto equal = std::partition(begin, end, [=](float w) { return w > pivot; });
    const auto below = std::partition(equal, end, [=](float w) { return w == pivot; });
    const double heavier = std::accumulate(begin, equal, above);
    const double with_equal = heavier + static_cast<double>(below - equal) * pivot;
    if (equal != begin && heavier >= mass) {
      end = equal;
    } else if (with_equal >= mass) {
      const double missing = std::max(mass - heavier, 0.0);
      const auto wanted = missing > 0 ? static_cast<int64_t>(std::ceil(missing / pivot)) : int64_t{0};
      const bool must_keep_one = heaviest_inside && equal == range.begin();
      return {pivot, below - equal - std::max<int64_t>(wanted, must_keep_one)};
    } else {
      above = with_equal;
      begin = below;
    }
  }
  return {std::numeric_limits<float>::denorm_min(), 0};  // rounding: everything is needed
}

int32_t Distribution::draw(double u) const {
  double rest = u * total_;
  size_t chosen = 0;  // the last block with weight, should rounding leave a rest
  bool found = false;
  for (size_t block = 0; block * kBlock < kept_ && !found; ++block) {
    if (sums_[block] <= 0) continue;
    chosen = block;
    found = rest < sums_[block];
    if (!found) rest -= sums_[block];
  }
  size_t last = chosen * kBlock;
  const size_t end = std::min(kept_, last + kBlock);
  for (size_t i = last; i < end; ++i) {
    if (weights_[i] <= 0) continue;
    last = i;
    rest -= weights_[i];
    if (found && rest < 0) break;
  }
  return all_ ? static_cast<int32_t>(last) : ids_[last];
}

std::vector<double> Distribution::probabilities() const {
  std::vector<double> result(logits_.size(), 0.0);
  if (!std::isfinite(max_)) {
    result[static_cast<size_t>(ids_.front())] = 1.0;
    return result;
  }
  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - static_cast<double>(max_)) * static_cast<double>(scale_));
  };
  if (all_) {
    std::ranges::transform(logits_, result.begin(), weight);
  } else {
    for (const int32_t id : std::span(ids_).first(kept_))
      result[static_cast<size_t>(id)] = weight(logits_[static_cast<size_t>(id)]);
  }
  const double sum = std::accumulate(result.begin(), result.end(), 0.0);
  for (double& probability : result) probability /= sum;
  return result;
}

}  // namespace polylora
