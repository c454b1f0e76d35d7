#include "tune/train/sample_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace polylora {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

constexpr int64_t kGroupedBatches = 50;  // batches that are sorted by length together

}  // namespace

SamplePlan::SamplePlan(std::vector<int> lengths, const SamplePlanOptions& options)
    : lengths_(std::move(lengths)), options_(options) {
  batches_per_epoch_ = ceil_div(static_cast<int64_t>(lengths_.size()), options.batch_size);
  updates_per_epoch_ = ceil_div(batches_per_epoch_, options.batches_per_update);
  total_updates_ =
      options.max_updates > 0
          ? options.max_updates
          : static_cast<int64_t>(std::ceil(options.epochs * static_cast<double>(updates_per_epoch_)));
}

UpdateSamples SamplePlan::update(int64_t step) {
  const int64_t epoch = step / updates_per_epoch_, within = step % updates_per_epoch_;
  if (epoch != ordered_epoch_) make_order(epoch);
  const int64_t first_batch = within * options_.batches_per_update;
  const int64_t end_batch = std::min(first_batch + options_.batches_per_update, batches_per_epoch_);
  const int64_t end = std::min(end_batch * options_.batch_size, static_cast<int64_t>(order_.size()));
  UpdateSamples samples;
  samples.examples.assign(order_.begin() + first_batch * options_.batch_size, order_.begin() + end);
  samples.epoch =
      static_cast<double>(epoch) + static_cast<double>(end_batch) / static_cast<double>(batches_per_epoch_);
  samples.ends_epoch = end_batch == batches_per_epoch_;
  return samples;
}

/// Fisher-Yates, a pure function of (seed, epoch).
void SamplePlan::make_order(int64_t epoch) {
  ordered_epoch_ = epoch;
  order_.resize(lengths_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  if (!options_.shuffle) return;
  for (size_t i = order_.size() - 1; i > 0; --i) {
    const double u = random_uniform(options_.seed, static_cast<uint64_t>(epoch), i);
    std::swap(order_[i], order_[static_cast<size_t>(u * static_cast<double>(i + 1))]);
  }
  if (options_.group_by_length) group(order_);
}

void SamplePlan::group(std::span<size_t> order) const {
  const auto run = static_cast<size_t>(options_.batch_size * options_.batches_per_update * kGroupedBatches);
  for (size_t begin = 0; begin < order.size(); begin += run) {
    const auto part = order.subspan(begin, std::min(run, order.size() - begin));
    std::stable_sort(part.begin(), part.end(),
                     [this](size_t a, size_t b) { return lengths_[a] > lengths_[b]; });
  }
}

}  // namespace polylora
