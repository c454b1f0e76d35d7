// The rest of the op list: what training, merging and nothing else computes. Letters, threads and the meaning
// of `=` and `+=` are those of ops/backend.h.
//
// The base model is frozen: no op here forms the gradient of a packed weight. Sums over rows are one chain
// in ascending order, so that a gradient is the same for every number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ops/backend.h"

namespace polylora {

/// One LoRA pair being trained, on the columns [n_begin, n_begin + n_count) of a (fused) linear's output: the
/// f32 master weights and where their gradients go.
struct LoraGradient {
  int64_t n_begin = 0;
  int64_t n_count = 0;
  float scale = 1.0f;
  ConstMat a;  // [R,K]
  ConstMat b;  // [n_count,R]
  Mat da;      // [R,K]
  Mat db;      // [n_count,R]
};

/// A random number per element that depends on nothing but these: rows[t] identifies a token (which example
/// of which step, at which position), `stream` the place in the model. So recomputing a layer, cutting a step
/// into other micro-batches or another number of threads cannot change it.
struct RandomKeys {
  std::span<const uint64_t> rows;  // [T]
  uint64_t stream = 0;
};

/// torch.optim.AdamW: decoupled weight decay, bias correction, eps added after the root.
struct AdamwParams {
  float learning_rate = 0.0f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0.0f;
  int64_t step = 1;          // of the update, from 1
  float gradient_scale = 1;  // clipping: what every gradient is multiplied with first
};

class TrainingBackend : public Backend {
 public:
  // --- backward
  // -----------------------------------------------------------------------------------------------
  /// dx[T,K] = dy[T,N] · w, or += with `accumulate`. bf16, q8 and q4 weights are multiplied as bf16 with dy
  /// rounded to bf16; f32 ones in f32. Sums are f32, one chain over ascending n whatever T is.
  void linear_dx(Mat dx, ConstMat dy, const Weight& w, bool accumulate);

  /// Backward of lora_delta for pairs that all rows use. With g = scale * dy[:, n-range]:
  ///   db += gᵀ·(x·Aᵀ),  da += (g·B)ᵀ·x,  dx += (g·B)·A (unless dx is empty)
  /// `dtype` kBf16: the factors of every product are rounded to bf16, sums are f32; kF32: nothing is.
  /// dx, x: [T,K]; dy: [T,N].
  void lora_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs, DType dtype);

  /// dx[T,D] += the gradient of y = rmsnorm(x) * gain; [T,n*D] as in rmsnorm.
  void rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps);

  /// Backward of rope, in place: the rotation by the negative angle.
  void rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions, RopeTable table);

  /// Backward of attention over whole sequences: every span starts at position 0 and `pages` are not looked
  /// at. q, dq: [T,H*E]; k, v, dk, dv: [T,G*E]; o, d_o: [T,H*E]; lse: [T,H]. dq, dk, dv `=`; rows outside
  /// the spans are left alone. `dtype` is that of the KV cache the forward went through.
  void attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse, ConstMat q,
                          ConstMat k, ConstMat v, int head_dim, std::span<const SequenceSpan> spans,
                          const AttentionParams& params, DType dtype);

  /// dgate_up[T,2F] = gradient of glu; may alias gate_up.
  void glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation);

  /// dy[T,N] *= 1 - (y / cap)²: the gradient of softcap, of which y is the result.
  void softcap_backward(Mat dy, ConstMat y, float cap);

  /// loss[m] = -log softmax(logits[m])[targets[m]]; then logits[m] = weights[m] * d loss[m] / d logits[m].
  /// All targets are in [0, V).
  void cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                     std::span<const float> weights);

  /// y[rows[m], D] = x[m, D]: what undoes gather_rows. `rows` are distinct.
  void scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows);

  /// y = (or += with `accumulate`) x / (1-p) where kept, 0 where dropped, each element with probability p
  /// (to 1/65536): element i of row t is dropped when 16 bits of random_bits(rows[t], stream, i/4), lowest
  /// first by i%4, are below round(65536 p). y may be x. The backward of dropout is dropout of dy.
  void dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate);

  /// y[t,i] += scale[t] * u, u uniform in [-1,1) (NEFTune).
  void add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys);

  /// dw[V,D] += dy[t] at row ids[t], in ascending t.
  void embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids);

  /// dw[N,K] += dyᵀ·x for a matrix that is trained in full. `dtype` as in lora_backward.
  void linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype);

  /// out[n] += Σ_t a[t,n] * b[t,n] (DoRA's magnitudes).
  void column_dots(std::span<float> out, ConstMat a, ConstMat b);

  /// out[t] = Σ_n a[t,n] * b[t,n].
  void row_dots(std::span<float> out, ConstMat a, ConstMat b);

  /// Backward of route: ops/routing.h.
  void route_backward(Mat d_logits, ConstMat logits, const Routing& routing, const RouterParams& params,
                      std::span<const float> gains);

  // --- optimizer and merge
  // ---------------------------------------------------------------------------------------------------
  /// One update of p, m, v [n] from the gradient g [n].
  void adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
             const AdamwParams& params);

  /// Σ x², the same for every number of threads.
  double sum_squares(std::span<const float> x);

  /// w[N,K] += scale * (B·A): the product first, then the scale, as PEFT merges. a: [R,K], b: [N,R].
  void lora_merge(Mat w, ConstMat a, ConstMat b, float scale);

 protected:
  virtual void do_linear_dx(Mat dx, ConstMat dy, const Weight& w, bool accumulate) = 0;
  virtual void do_lora_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs,
                                DType dtype) = 0;
  virtual void do_rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain,
                                   float eps) = 0;
  virtual void do_rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions,
                                RopeTable table) = 0;
  virtual void do_attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse,
                                     ConstMat q, ConstMat k, ConstMat v, int head_dim,
                                     std::span<const SequenceSpan> spans, const AttentionParams& params,
                                     DType dtype) = 0;
  virtual void do_glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) = 0;
  virtual void do_softcap_backward(Mat dy, ConstMat y, float cap) = 0;
  virtual void do_cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                                std::span<const float> weights) = 0;
  virtual void do_scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows) = 0;
  virtual void do_dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) = 0;
  virtual void do_add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) = 0;
  virtual void do_embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids) = 0;
  virtual void do_linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype) = 0;
  virtual void do_column_dots(std::span<float> out, ConstMat a, ConstMat b) = 0;
  virtual void do_row_dots(std::span<float> out, ConstMat a, ConstMat b) = 0;
  virtual void do_route_backward(Mat d_logits, ConstMat logits, const Routing& routing,
                                 const RouterParams& params, std::span<const float> gains) = 0;

  virtual void do_adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
                        const AdamwParams& params) = 0;
  virtual double do_sum_squares(std::span<const float> x) = 0;
  virtual void do_lora_merge(Mat w, ConstMat a, ConstMat b, float scale) = 0;
};

/// make_backend for those who train. Throws the same.
std::unique_ptr<TrainingBackend> make_training_backend(const BackendOptions& options = {});

}  // namespace polylora
