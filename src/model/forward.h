// The forward pass: one for all architectures, for a batch that mixes prefill, decode and adapters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// Rows [row_begin, row_end) belong to requests of one adapter (null = the base model).
struct AdapterGroup {
  int row_begin = 0;
  int row_end = 0;
  const Adapter* adapter = nullptr;
};

/// One step's work: T rows, contiguous by sequence, sequences contiguous by adapter.
struct Batch {
  std::vector<int32_t> token_ids;       // [T]
  std::vector<int32_t> positions;       // [T]
  std::vector<SequenceSpan> sequences;  // cover [0, T)
  std::vector<AdapterGroup> groups;     // cover [0, T)

  int rows() const { return static_cast<int>(token_ids.size()); }
};

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
  void run_layer(int layer, const Batch& batch, KvCache& cache);
  void project(Mat y, ConstMat x, int layer, Site site, const Batch& batch);

  const Model& model_;
  Backend& backend_;
  int max_rows_;
  int rows_ = 0;  // of the last batch
  std::vector<float> rope_;
  int max_positions_;
  HugeBuffer buffer_;
  Mat residual_, normed_, qkv_, attended_, gate_up_, activated_, delta_;  // [max_rows, ...]
  std::vector<LoraGroup> lora_groups_;
};

}  // namespace polylora
