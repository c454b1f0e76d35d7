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

  /// out[M, :] = logits of the given rows of the last batch, ascending. M <= max_rows. A row's vocabulary is
  /// the base's, or that of its adapter's own lm_head; what out has beyond it is left alone.
  void logits(std::span<const int32_t> rows, Mat out);

  size_t bytes() const;

 private:
  LayerActivations activations() const;  // of the last batch's rows
  void embed(const Batch& batch, Mat out);
  void add_embedding_pair(const AdapterEmbedding& embedding, float factor, std::span<const int32_t> ids,
                          Mat out);

  const Model& model_;
  Backend& backend_;
  LayerForward layers_;
  int max_rows_;
  int rows_ = 0;                      // of the last batch
  std::vector<AdapterGroup> groups_;  // of the last batch
  std::vector<LoraGroup> lora_groups_;
  std::vector<float> hidden_;  // h of an adapter's pair on the embedding
  MatArena arena_;
  Mat residual_, normed_, qkv_, attended_, gate_up_, activated_, delta_;  // [max_rows, ...]
  Mat router_logits_, expert_in_, expert_out_;                            // empty without experts
};

}  // namespace polylora
