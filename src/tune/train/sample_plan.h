// Which examples each update sees: a pure function of the configuration and the update's number, so that a
// resumed run goes on exactly where it was.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polylora {

struct SamplePlanOptions {
  int64_t batch_size = 8;          // examples of one batch (per_device_train_batch_size)
  int64_t batches_per_update = 1;  // gradient_accumulation_steps
  double epochs = 3.0;
  int64_t max_updates = -1;  // > 0 wins over epochs
  uint64_t seed = 42;
  bool shuffle = true;
  bool group_by_length = false;  // batches of similar length (transformers' LengthGroupedSampler in spirit)
};

/// One update's share of an epoch.
struct UpdateSamples {
  std::vector<size_t> examples;  // in order
  double epoch = 0.0;            // passes over the data once this update is done
  bool ends_epoch = false;
};

/// Counts as transformers' Trainer does: an epoch has ceil(n / batch) batches and its last update takes what
/// is left of them.
class SamplePlan {
 public:
  /// `lengths`: of every example; n = lengths.size(); with none there are no updates.
  SamplePlan(std::vector<int> lengths, const SamplePlanOptions& options);

  int64_t total_updates() const { return total_updates_; }
  int64_t updates_per_epoch() const { return updates_per_epoch_; }

  /// Update `step`, from 0.
  UpdateSamples update(int64_t step);

 private:
  void make_order(int64_t epoch);
  void group(std::span<size_t> order) const;

  std::vector<int> lengths_;
  SamplePlanOptions options_;
  int64_t batches_per_epoch_ = 0, updates_per_epoch_ = 0, total_updates_ = 0;
  int64_t ordered_epoch_ = -1;  // whose order is in order_
  std::vector<size_t> order_;
};

}  // namespace polylora
