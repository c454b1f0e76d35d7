// Forward and backward of one micro-batch: the layers that serve, walked back again by hand.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/mat_arena.h"
#include "model/layer_forward.h"
#include "model/weights.h"
#include "ops/training_backend.h"
#include "tune/train/micro_batch.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

struct TrainingPassOptions {
  int max_rows = 0;  // of a micro-batch
  int max_positions = 0;
  DType dtype = DType::kBf16;   // kBf16 or kF32: KV, adapter products
  size_t activation_bytes = 0;  // layers whose activations fit are not computed twice
  double dropout = 0.0;         // LoRA's, in training
  double neftune_noise_alpha = 0.0;
};

/// Owns the activations. Used by one thread. The order of calls for one micro-batch is
///   forward  ->  losses (as often as wanted)  ->  backward (at most once, and only after kForBackward)
class TrainingPass {
 public:
  enum class Mode : uint8_t {
    kForBackward,  // with dropout and noise; keeps what backward reads
    kInference     // neither
  };

  /// `trained` may be null: inference only. All must outlive this.
  TrainingPass(const Model& model, TrainingBackend& backend, const TrainableAdapter* trained,
               const TrainingPassOptions& options);

  /// `adapter` null: the base alone. Packed matrices that are trained in full replace the model's when given.
  void forward(MicroBatch& micro, const Adapter* adapter, Mode mode);

  /// The matrices trained in full, as packed for the forward; null: the model's own. They must outlive
  /// forward, losses and backward.
  void set_full_matrices(const Weight* embedding, const Weight* lm_head);

  /// loss[m] = -log p(target m). `correct`, unless empty: 1 where the target is the likeliest token.
  void losses(const MicroBatch& micro, std::span<float> loss, std::span<uint8_t> correct = {});

  /// Gradients of Σ weights[m] * loss[m], added to trained->gradients(). `loss` as above.
  void backward(const MicroBatch& micro, std::span<const float> weights, std::span<float> loss);

  size_t bytes() const;
  /// Layers whose activations are kept from forward to backward; the others are computed again.
  int kept_layers() const { return static_cast<int>(kept_.size()); }

  /// What the constructor would allocate, without doing it: bytes that do not depend on activation_bytes, and
  /// bytes per kept layer.
  struct MemoryNeed {
    size_t fixed = 0;
    size_t per_kept_layer = 0;
    size_t kv = 0;
  };
  static MemoryNeed memory_need(const ModelConfig& config, const TrainingPassOptions& options);

 private:
  void allocate();
  LayerActivations activations(int layer) const;
  bool is_kept(int layer) const { return layer >= first_kept_; }
  void restore(int layer, const MicroBatch& micro, const LayerActivations& acts);
  void embed(const MicroBatch& micro, Mode mode);
  void enable_dropout(MicroBatch& micro);
  template <typename Body>
  void for_head_chunks(const MicroBatch& micro, Body body);
  void head_backward(const MicroBatch& micro, std::span<const float> weights, std::span<float> loss);
  void layer_backward(int layer, const MicroBatch& micro);
  void mlp_backward(int layer, const MicroBatch& micro, const LayerActivations& acts);
  void feed_forward_backward(int layer, const MicroBatch& micro, const LayerActivations& acts, Mat d_out);
  void experts_backward(int layer, const MicroBatch& micro, const LayerActivations& acts, Mat d_out);
  void attention_backward(int layer, const MicroBatch& micro, const LayerActivations& acts);
  Mat output_gradient(int layer, Norm norm, ConstMat out);
  void heads_backward(int layer, const LayerActivations& acts);
  void project_backward(Mat dx, Mat dy, ConstMat x, int layer, Site site, const MicroBatch& micro) {
    project_backward(dx, dy, x, layer, site, micro, {micro.batch.groups});
  }
  void project_backward(Mat dx, Mat dy, ConstMat x, int layer, Site site, const MicroBatch& micro,
                        const BatchRows& selected);
  void gain_backward(Mat dy, ConstMat x, int layer, Site site, const MicroBatch& micro,
                     const BatchRows& selected);
  std::span<const uint64_t> keys_of(std::span<const uint64_t> keys, std::span<const int32_t> selected);
  const Weight& embedding() const { return embedding_ != nullptr ? *embedding_ : *model_.embedding; }
  const Weight& lm_head() const { return lm_head_ != nullptr ? *lm_head_ : model_.output_embedding(); }
  Mat rows(const Mat& mat) const { return mat.row_range(0, rows_); }

  const Model& model_;
  TrainingBackend& backend_;
  const TrainableAdapter* trained_;
  TrainingPassOptions options_;
  LayerForward layers_;
  std::unique_ptr<KvCache> cache_;  // of one layer: keys and values are needed only while it runs
  const Weight* embedding_ = nullptr;
  const Weight* lm_head_ = nullptr;
  const Adapter* adapter_ = nullptr;  // of the last forward
  int rows_ = 0;                      // of the last forward
  int first_kept_ = 0;

  /// What backward reads and cannot cheaply make again.
  struct Kept {
    Mat projected, qkv, attended, lse, attention_out, middle, gate_up, mlp_out;
  };
  MatArena arena_;
  std::vector<Mat> residuals_;  // [layer][T,D]
  std::vector<Kept> kept_;      // of the layers from first_kept_
  Kept scratch_;                // of all others, one at a time
  Mat attention_in_, mlp_in_, activated_, delta_, final_;
  Mat d_residual_, d_in_, d_attended_, d_qkv_, d_activated_;  // gradients
  Mat d_projected_, d_output_;                                // … before the norms of heads and of outputs
  Mat dropped_, d_dropped_;                                   // LoRA's input under dropout
  Mat gained_, d_gained_;                                     // a projection's output under DoRA
  Mat router_logits_, d_router_, expert_in_, expert_out_;     // of a mixture of experts
  std::vector<uint64_t> expert_keys_;                         // RandomKeys of one expert's rows
  Mat head_rows_, head_normed_, d_head_, logits_;             // one chunk of targets
  Mat capped_;                                                // their logits, which cross_entropy overwrites
};

}  // namespace polylora
