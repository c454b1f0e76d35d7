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
  Mat gate_up;        // [T,2F]; with experts see keeps_experts
  Mat activated;      // [T,F], likewise
  Mat mlp_out;        // [T,D] before its norm; may be delta itself
  Mat delta;          // [T,D] what the layer adds to `middle`

  // Of a mixture of experts alone. Each row is in the shares of k experts.
  Mat router_logits;  // [T,experts]
  Mat expert_in;      // [T,D] the rows of mlp_in that one expert sees; the next overwrites them
  Mat expert_out;     // [T,D] what it makes of them, likewise
  /// gate_up and activated are [T*k, …], in the order of Routing's entries; else [T, …], and each expert
  /// overwrites those of the last.
  bool keeps_experts = false;

  /// The rows of gate_up or activated that hold an expert's share.
  Mat of_expert(Mat mat, const Routing::Share& share) const {
    return mat.row_range(keeps_experts ? share.begin : 0, share.size());
  }
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
  void project(Mat y, ConstMat x, int layer, Site site, const Batch& batch) {
    project(y, x, layer, site, batch, {batch.groups});
  }
  /// The same for some rows of the batch, which x and y hold.
  void project(Mat y, ConstMat x, int layer, Site site, const Batch& batch, const BatchRows& rows);

  /// Where out.mlp_in goes: fills out.router_logits.
  Routing route(int layer, const Batch& batch, const LayerActivations& out);
  RouterParams router_params() const;

  RopeTable rope(int layer) const;
  AttentionParams attention_params(int layer) const;
  size_t bytes() const { return (rope_.size() + local_rope_.size()) * sizeof(float); }

 private:
  const Model& model_;
  Backend& backend_;
  void attend(int layer, const Batch& batch, KvCache& cache, int cache_layer, ConstMat residual,
              ConstMat delta, const LayerActivations& out);
  void activate(int layer, const Batch& batch, const LayerActivations& out);
  void activate_expert(int layer, int expert, const Routing::Share& share, const Batch& batch,
                       const BatchRows& rows, const LayerActivations& out);
  void mix_experts(int layer, const Batch& batch, const LayerActivations& out);
  void normalise_heads(const QkvViews& to, const QkvViews& from, const Layer& weights);
  void normalise_output(Mat delta, ConstMat out, const std::vector<float>& gain);

  std::vector<float> rope_, local_rope_;  // the latter empty where no layer asks for it
  int max_positions_;
  std::vector<LoraGroup> lora_groups_;
};

}  // namespace polylora
