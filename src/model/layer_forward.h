// One decoder layer, forward: the one text of what a layer computes, for serving and for training.
#pragma once

#include <vector>

#include "model/batch.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// What a layer leaves behind, [T, …] each. Who calls decides what shares memory: serving has one set for all
/// layers, with residual = middle and attention_in = mlp_in; training keeps what its backward reads.
struct LayerActivations {
  Mat residual;       // [T,D] the residual stream that enters the layer
  Mat attention_in;   // [T,D] its norm, the input of q, k, v
  Mat projected;      // [T,(H+2G)*E] q and k before their norms, v; may be qkv itself
  Mat qkv;            // [T,(H+2G)*E] q and k after rope; v only where `projected` is the same
  Mat attended;       // [T,H*E]
  Mat lse;            // [T,H], or empty: not wanted
  Mat attention_out;  // [T,D] before its norm; may be delta itself
  Mat middle;         // [T,D] the residual stream between attention and feed-forward
  Mat mlp_in;         // [T,D] its norm
  Mat gate_up;        // [T,2F]
  Mat activated;      // [T,F]
  Mat mlp_out;        // [T,D] before its norm; may be delta itself
  Mat delta;          // [T,D] what the layer adds to `middle`
};

/// q, k and v in a fused activation [T,(H+2G)*E].
struct QkvViews {
  Mat q, k, v;
};
QkvViews split_qkv(Mat qkv, const ModelConfig& config);

/// Used by one thread.
class LayerForward {
 public:
  /// `max_positions`: one more than the highest rotary position.
  LayerForward(const Model& model, Backend& backend, int max_positions);

  /// The layer reads residual + delta and writes that sum to out.residual. An empty delta: it reads
  /// `residual`, which then must be out.residual itself. Keys and values go to `cache_layer` of `cache`.
  /// out.delta may be `delta`.
  void run(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual, ConstMat delta,
           const LayerActivations& out);

  /// The same up to out.activated, without the down projection: what a backward pass reads.
  void run_until_activated(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
                           ConstMat delta, const LayerActivations& out);

  /// The one place where LoRA happens: y = W·x (+ bias), and per group of rows y += scale · B·(A·x), then
  /// y * gain + shift where the adapter has them.
  void project(Mat y, ConstMat x, int layer, Site site, const Batch& batch);

  RopeTable rope(int layer) const;
  AttentionParams attention_params(int layer) const;
  size_t bytes() const { return (rope_.size() + local_rope_.size()) * sizeof(float); }

 private:
  const Model& model_;
  Backend& backend_;
  void normalise_heads(const QkvViews& to, const QkvViews& from, const Layer& weights);
  void normalise_output(Mat delta, ConstMat out, const std::vector<float>& gain);

  std::vector<float> rope_, local_rope_;  // the latter empty where no layer asks for it
  int max_positions_;
  std::vector<LoraGroup> lora_groups_;
};

}  // namespace polylora
