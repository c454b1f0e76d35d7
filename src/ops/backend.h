// The op list: everything that a forward pass computes, once, for all implementations. What only training
// needs follows in ops/training_backend.h.
//
// `ref` (ref_backend.cc) is the specification in naive loops and the test oracle; `cpu` is the fast one; a
// CUDA backend fits behind the same calls. Model code never sees a device, a layout or an instruction set.
//
// Letters in shapes: T rows of the batch, D model width, N/K output/input width of a linear, H/G query/kv
// heads, E head size (of a router: experts), F feed-forward width, V vocabulary, R rank, M gathered rows.
// `=` overwrites the output, `+=` adds to it; each op says which.
//
// Shapes are checked here, in the non-virtual functions; the do_* behind them may rely on them. A violated
// shape is our bug (ErrorCode::kInternal), never a user's.
//
// Threads: packing (pack_*, make_kv_cache) may be called from any thread at any time. All other calls come
// from one thread at a time, the engine's whose turn it is or the trainer's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/tensor.h"
#include "ops/routing.h"
#include "ops/weight.h"

namespace polylora {

/// Rows [row_begin, row_end) of the batch use one adapter's pairs on the linear at hand, times `factor`; null
/// = base only. Groups are ascending; one follows the rows of another, or has the same rows: then both are
/// added, in order.
struct LoraGroup {
  int row_begin = 0;
  int row_end = 0;
  const LoraWeight* weight = nullptr;
  float factor = 1.0f;
};

/// One sequence's share of the batch: rows [row_begin, row_begin+row_count) are its tokens at positions
/// [start_position, start_position+row_count). Token p of the sequence lives in pages[p / kKvPageSize],
/// offset p % kKvPageSize. Keys 0..p are visible to the query at position p.
struct SequenceSpan {
  int row_begin = 0;
  int row_count = 0;
  int start_position = 0;
  std::span<const int32_t> pages;
};

struct AttentionParams {
  float scale = 1.0f;
  int window = 0;        // > 0: the query at p sees keys in (p - window, p] only
  float softcap = 0.0f;  // > 0: score = softcap * tanh(score / softcap)
};

/// cos and sin for every position: table[p, 0:E/2] = cos, table[p, E/2:E] = sin (already scaled by rope
/// scaling).
using RopeTable = ConstMat;

enum class GluActivation : uint8_t { kSilu, kGeluTanh };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;    // "cpu"
  virtual std::string description() const = 0;  // "cpu avx512-bf16-vnni, 2 threads"

  // --- packing (any thread)
  // -----------------------------------------------------------------------------------
  /// Packs w[N,K] into `format`. A source whose rows are already in that format's value set is held exactly
  /// (Q8_0/Q4_0/Q4_1 in q8; Q4_0/Q4_1 in q4); wider rows are quantised per group of 32.
  /// q8/q4 need K % 32 == 0 (kUnsupported otherwise).
  std::unique_ptr<Weight> pack_weight(const WeightSource& source, WeightFormat format);
  /// `dtype` kF32, kBf16 or kI8: how A and B are stored and multiplied. x is rounded to it, h = x·Aᵀ is kept
  /// in f32, multiplied by scale in f32 and rounded to it again before ·Bᵀ. kI8 is ops/quant.h's
  /// Int8LoraPair.
  std::unique_ptr<LoraWeight> pack_lora(const LoraSource& source, DType dtype);
  std::unique_ptr<KvCache> make_kv_cache(const KvCacheShape& shape);

  // --- forward
  // ------------------------------------------------------------------------------------------------
  /// y[T,D] = rows ids[T] of w[V,D], widened to f32.
  void embed(Mat y, const Weight& w, std::span<const int32_t> ids);

  /// sum = x + delta (when delta.data; written to sum, which may alias x); y = sum * rsqrt(mean(sum²)+eps) *
  /// gain. x, delta, sum, y: [T,D]; gain: [D]; y may be x. Without delta, sum must be empty, and x and y may
  /// be [T,n*D]: then each D-wide part of a row (a head) is normalised by itself.
  void rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain, float eps);

  /// y[T,N] = x[T,K] · wᵀ (+ bias[N] unless empty), then lora_delta(y, x, groups): the same result, but a
  /// backend may do both while it has x and y at hand.
  void linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
              std::span<const LoraGroup> groups = {});

  /// Per group with a weight, for each of its pairs: y[rows, n-range] += factor * scale * (x·Aᵀ)·Bᵀ.
  void lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups);

  /// Rotates each E-wide head of q[T,H*E] and k[T,G*E] in place (HF half-split rotation) by the row's
  /// position.
  void rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table);

  /// Stores k[T,G*E], v[T,G*E] of every span's rows at their positions in `layer`, each token's head rounded
  /// to the cache's dtype by itself: kI8 has scale = largest magnitude / 127. Writing offset 0 of a page
  /// clears the page first, so that what an earlier owner left (even NaN) can never reach a later one.
  void kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v, std::span<const SequenceSpan> spans);

  /// o[T,H*E] = softmax(scale · q·Kᵀ) · V over the paged cache, causal by position. Reads what kv_write
  /// stored, including this batch's own rows. A row's result depends only on its own q and its keys: blocks
  /// of tokens are walked in order from position 0 with one online softmax, in which keys that the row does
  /// not see add exactly nothing, so that it is bit-identical however the sequence was cut into chunks.
  /// lse[T,H], unless empty, gets each row's log Σ exp(score): what attention_backward wants.
  void attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer,
                 std::span<const SequenceSpan> spans, const AttentionParams& params);

  /// y[T,F] = act(gate_up[T,0:F]) * gate_up[T,F:2F].
  void glu(Mat y, ConstMat gate_up, GluActivation activation);

  /// y[T,N] = cap * tanh(y / cap), cap > 0.
  void softcap(Mat y, float cap);

  /// y[T,D] += x[T,D].
  void add(Mat y, ConstMat x);

  /// y[m,D] = x[rows[m], D], times scales[m] unless they are empty.
  void gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows, std::span<const float> scales = {});

  /// y[rows[m], D] += x[m, D], times scales[m] unless they are empty. `rows` are distinct.
  void scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows, std::span<const float> scales = {});

  /// y[T,D] = 0.
  void clear(Mat y);

  /// Sends each row to k experts by its router's logits[T,E]. The result is on the host: a device waits here.
  Routing route(ConstMat logits, const RouterParams& params);

  /// y[T,N] = y * gain[N] + shift[N] in every row (DoRA's magnitude over norm, an adapter's biases). An empty
  /// shift is 0.
  void scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift = {});

 protected:
  virtual std::unique_ptr<Weight> do_pack_weight(const WeightSource& source, WeightFormat format) = 0;
  virtual std::unique_ptr<LoraWeight> do_pack_lora(const LoraSource& source, DType dtype) = 0;
  virtual std::unique_ptr<KvCache> do_make_kv_cache(const KvCacheShape& shape) = 0;
  virtual void do_embed(Mat y, const Weight& w, std::span<const int32_t> ids) = 0;
  virtual void do_rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain,
                          float eps) = 0;
  virtual void do_linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
                         std::span<const LoraGroup> groups) = 0;
  virtual void do_lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups) = 0;
  virtual void do_rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table) = 0;
  virtual void do_kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v,
                           std::span<const SequenceSpan> spans) = 0;
  virtual void do_attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer,
                            std::span<const SequenceSpan> spans, const AttentionParams& params) = 0;
  virtual void do_glu(Mat y, ConstMat gate_up, GluActivation activation) = 0;
  virtual void do_softcap(Mat y, float cap) = 0;
  virtual void do_add(Mat y, ConstMat x) = 0;
  virtual void do_gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows,
                              std::span<const float> scales) = 0;
  virtual void do_scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows,
                              std::span<const float> scales) = 0;
  virtual void do_clear(Mat y) = 0;
  virtual Routing do_route(ConstMat logits, const RouterParams& params) = 0;
  virtual void do_scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) = 0;
};

struct BackendOptions {
  std::string name = "cpu";  // "cpu" or "ref"
  int threads = 0;           // 0 = one per usable core
};

/// Throws kInvalidArgument for an unknown name. The instruction set of `cpu` is the best the machine has, or
/// what the environment variable POLYLORA_ISA names: generic, avx2, avx512.
std::unique_ptr<Backend> make_backend(const BackendOptions& options = {});

}  // namespace polylora
