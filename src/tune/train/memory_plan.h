// How much memory a training run takes, worked out before anything big is allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "io/checkpoint.h"
#include "model/config.h"
#include "tune/config/train_config.h"
#include "tune/train/training_pass.h"

namespace polylora {

struct MemoryPlan {
  size_t weights = 0;
  size_t adapter = 0;      // values, gradients, two moments, and their packed copy
  size_t working = 0;      // activations and gradients of one layer, inputs of all, logits, KV, scratch
  size_t activations = 0;  // of layers that are not computed twice: TrainingPassOptions::activation_bytes
  int kept_layers = 0;

  size_t total() const { return weights + adapter + working + activations; }
  std::string text() const;  // "weights 269 MB, adapter …"
};

/// Without disable_gradient_checkpointing, activations get what is left of the larger of 312 MiB and half the
/// weights, and of `available`; with it, all they want. Throws kResourceExhausted, naming the keys to change,
/// when it does not fit.
MemoryPlan plan_memory(const TrainConfig& config, const ModelConfig& model, WeightPolicy policy,
                       size_t adapter_floats, const TrainingPassOptions& options, size_t available);

}  // namespace polylora
