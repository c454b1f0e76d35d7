// AdamW over a TrainableAdapter, with clipping and LoRA+ learning rates.
#pragma once

#include <cstdint>
#include <optional>

#include "ops/training_backend.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

struct OptimizerSettings {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;  // 0: no clipping
  /// LoRA+ (Hayou et al. 2024): B learns this many times faster than A.
  std::optional<double> loraplus_lr_ratio;
  double loraplus_lr_embedding = 1e-6;  // with LoRA+: of matrices trained in full that embed tokens
};

class Optimizer {
 public:
  Optimizer(TrainingBackend& backend, const TrainableAdapter& trained, const OptimizerSettings& settings)
      : backend_(backend), trained_(trained), settings_(settings) {}

  void zero_gradients();

  /// Applies the gradients and returns their norm before clipping. `step` counts from 1.
  double update(int64_t step, double learning_rate);

 private:
  double learning_rate_of(const Parameter& parameter, double learning_rate) const;

  TrainingBackend& backend_;
  const TrainableAdapter& trained_;
  OptimizerSettings settings_;
};

}  // namespace polylora
