// The forward pass: one for all architectures, for a batch that mixes prefill, decode and adapters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/mat_arena.h"
#include "model/batch.h"
#include "model/layer_forward.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// Owns the activations of a step. Used by one thread.
class ForwardPass {
 public:
  /// `max_rows`: the most rows a batch will have. `max_positions`: the most tokens of one sequence.
  ForwardPass(const Model& model, Backend& backend, int max_rows, int max_positions);

  /// Runs all layers; keys and values go to `cache`; the final hidden rows stay here for logits().
  void run(const Batch& batch, KvCache& cache);

  /// out[M,V] = logits of the given rows of the last batch. M <= max_rows.
  void logits(std::span<const int32_t> rows, Mat out);

  size_t bytes() const;

 private:
  LayerActivations activations() const;  // of the last batch's rows

  const Model& model_;
  Backend& backend_;
  LayerForward layers_;
  int max_rows_;
  int rows_ = 0;  // of the last batch
  MatArena arena_;
  Mat residual_, normed_, qkv_, attended_, gate_up_, activated_, delta_;  // [max_rows, ...]
};

}  // namespace polylora
