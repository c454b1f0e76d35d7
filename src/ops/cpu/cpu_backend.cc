#include "ops/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/thread_pool.h"
#include "ops/cpu/attention_backward.h"
#include "ops/cpu/cpu_lora.h"
#include "ops/cpu/kv_cache.h"
#include "ops/cpu/linear.h"
#include "ops/cpu/linear_dw.h"
#include "ops/cpu/linear_dx.h"
#include "ops/cpu/lora_backward.h"
#include "ops/cpu/lora_delta.h"
#include "ops/cpu/packed.h"
#include "ops/cpu/paged_attention.h"
#include "ops/cpu/training_ops.h"

namespace polylora {
namespace cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// A handle made by another backend is our bug.
template <typename Derived, typename Base>
Derived& as(Base& handle) {
  auto* derived = dynamic_cast<Derived*>(&handle);
  check(derived != nullptr, "the handle was made by another backend");
  return *derived;
}

/// Fewer elements than this are done before the other threads would have woken.
constexpr int64_t kInlineElements = 1 << 12;

void scale(float* y, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

void add_scaled(float* y, const float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

/// In lanes, which the compiler vectorises.
float dot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {}, sum = 0.0f;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float lane : lanes) sum += lane;
  return sum;
}

class CpuBackend final : public TrainingBackend {
 public:
  CpuBackend(const Kernels& kernels, int threads)
      : kernels_(kernels),
        pool_(threads),
        linear_(kernels, pool_),
        lora_delta_(kernels, pool_),
        attention_(pool_),
        attention_backward_(kernels, pool_),
        linear_dx_(kernels, pool_),
        linear_dw_(kernels, pool_),
        lora_backward_(kernels, pool_),
        training_(kernels, pool_) {}

  std::string_view name() const override { return "cpu"; }
  std::string description() const override {
    return fmt::format("cpu {}, {} thread{}", kernels_.description, pool_.size(),
                       pool_.size() == 1 ? "" : "s");
  }

 protected:
  std::unique_ptr<Weight> do_pack_weight(const WeightSource& source, WeightFormat format) override {
    return std::make_unique<CpuWeight>(source, format, pool_.size());
  }
  std::unique_ptr<LoraWeight> do_pack_lora(const LoraSource& source, DType dtype) override {
    return std::make_unique<CpuLora>(source, dtype);
  }
  std::unique_ptr<KvCache> do_make_kv_cache(const KvCacheShape& shape) override {
    return std::make_unique<CpuKvCache>(shape, kernels_);
  }

  void do_embed(Mat y, const Weight& w, std::span<const int32_t> ids) override {
    const auto& weight = as<const CpuWeight>(w);
    for_rows(y.rows, y.cols, [&](int64_t t) { weight.read_row(ids[static_cast<size_t>(t)], y.row(t)); });
  }

  void do_rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain,
                  float eps) override {
    const auto width = static_cast<int64_t>(gain.size());
    for_rows(x.rows, x.cols, [&](int64_t t) {
      for (int64_t begin = 0; begin < x.cols; begin += width) {
        kernels_.rmsnorm({
            .y = y.row(t) + begin,
            .sum = sum.data != nullptr ? sum.row(t) : nullptr,
            .x = x.row(t) + begin,
            .delta = delta.data != nullptr ? delta.row(t) : nullptr,
            .gain = gain.data(),
            .width = width,
            .eps = eps,
        });
      }
    });
  }

  void do_linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
                 std::span<const LoraGroup> groups) override {
    linear_.run(y, x, as<const CpuWeight>(w), bias, groups);
  }

  void do_lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups) override {
    lora_delta_.run(y, x, groups);
  }

  void do_rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table) override {
    const int64_t half = head_dim / 2;
    for_rows(q.rows, q.cols + k.cols, [&](int64_t t) {
      const float* cosine = table.row(positions[static_cast<size_t>(t)]);
      for (const Mat& heads : {q, k}) {
        for (int64_t c = 0; c < heads.cols; c += head_dim) {
          kernels_.rope(heads.row(t) + c, cosine, cosine + half, half);
        }
      }
    });
  }

  void do_kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v,
                   std::span<const SequenceSpan> spans) override {
    auto& kv = as<CpuKvCache>(cache);
    const int64_t heads = kv.shape().kv_heads;
    // One item is one sequence's head: its pages are nobody else's, and clearing comes before writing.
    for_each(static_cast<int64_t>(spans.size()) * heads, k.rows * k.cols, [&](int64_t item) {
      kv.write(layer, static_cast<int>(item % heads), k, v, spans[static_cast<size_t>(item / heads)]);
    });
  }

  void do_attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer,
                    std::span<const SequenceSpan> spans, const AttentionParams& params) override {
    attention_.run(o, lse, q, as<const CpuKvCache>(cache), layer, spans, params);
  }

  void do_glu(Mat y, ConstMat gate_up, GluActivation activation) override {
    constexpr int64_t kColumns = 512;  // a row is cut too: one decode row should use every thread
    const auto kernel = activation == GluActivation::kSilu ? kernels_.silu_mul : kernels_.gelu_tanh_mul;
    const int64_t runs = ceil_div(y.cols, kColumns);
    for_each(y.rows * runs, y.rows * y.cols * 4, [&](int64_t item) {
      const int64_t t = item / runs;
      const int64_t begin = item % runs * kColumns;
      const float* gate = gate_up.row(t) + begin;
      kernel(y.row(t) + begin, gate, gate + y.cols, std::min(kColumns, y.cols - begin));
    });
  }

  void do_softcap(Mat y, float cap) override {
    constexpr int64_t kColumns = 4096;  // one row of logits should use every thread
    const int64_t runs = ceil_div(y.cols, kColumns);
    for_each(y.rows * runs, y.rows * y.cols, [&](int64_t item) {
      const int64_t begin = item % runs * kColumns;
      kernels_.softcap(y.row(item / runs) + begin, std::min(kColumns, y.cols - begin), cap);
    });
  }

  void do_add(Mat y, ConstMat x) override {
    for_rows(y.rows, y.cols, [&](int64_t t) { kernels_.add(y.row(t), x.row(t), y.cols); });
  }

  void do_gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    for_rows(y.rows, y.cols, [&](int64_t m) {
      const auto i = static_cast<size_t>(m);
      std::copy_n(x.row(rows[i]), y.cols, y.row(m));
      if (!scales.empty()) scale(y.row(m), y.cols, scales[i]);
    });
  }

  void do_scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    for_rows(x.rows, y.cols, [&](int64_t m) {
      const auto i = static_cast<size_t>(m);
      add_scaled(y.row(rows[i]), x.row(m), y.cols, scales.empty() ? 1.0f : scales[i]);
    });
  }

  void do_clear(Mat y) override {
    for_rows(y.rows, y.cols, [&](int64_t t) { std::fill_n(y.row(t), y.cols, 0.0f); });
  }

  Routing do_route(ConstMat logits, const RouterParams& params) override {
    return route_rows(logits, params,
                      [&](int64_t rows, auto pick) { for_rows(rows, 8 * logits.cols, pick); });
  }

  void do_scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) override {
    training_.scale_columns(y, gain, shift);
  }
  void do_linear_dx(Mat dx, ConstMat dy, const Weight& w, bool accumulate) override {
    linear_dx_.run(dx, dy, as<const CpuWeight>(w), accumulate);
  }
  void do_lora_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs,
                        DType dtype) override {
    lora_backward_.run(dx, dy, x, pairs, dtype);
  }
  void do_rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps) override {
    training_.rmsnorm_backward(dx, dy, x, gain, eps);
  }
  void do_rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions,
                        RopeTable table) override {
    training_.rope_backward(dq, dk, head_dim, positions, table);
  }
  void do_attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse, ConstMat q,
                             ConstMat k, ConstMat v, int head_dim, std::span<const SequenceSpan> spans,
                             const AttentionParams& params, DType dtype) override {
    attention_backward_.run({dq, dk, dv, d_o, o, lse, q, k, v, head_dim, dtype, params}, spans);
  }
  void do_glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) override {
    training_.glu_backward(dgate_up, dy, gate_up, activation);
  }
  void do_softcap_backward(Mat dy, ConstMat y, float cap) override { training_.softcap_backward(dy, y, cap); }
  void do_cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                        std::span<const float> weights) override {
    training_.cross_entropy(loss, logits, targets, weights);
  }
  void do_scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows) override {
    training_.scatter_rows(y, x, rows);
  }
  void do_dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) override {
    training_.dropout(y, x, p, keys, accumulate);
  }
  void do_add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) override {
    training_.add_noise(y, scale, keys);
  }
  void do_embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids) override {
    training_.embed_backward(dw, dy, ids);
  }
  void do_linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype) override {
    linear_dw_.run(dw, dy, x, dtype);
  }
  void do_column_dots(std::span<float> out, ConstMat a, ConstMat b) override {
    training_.column_dots(out, a, b);
  }
  void do_row_dots(std::span<float> out, ConstMat a, ConstMat b) override {
    for_rows(a.rows, a.cols,
             [&](int64_t t) { out[static_cast<size_t>(t)] = dot(a.row(t), b.row(t), a.cols); });
  }
  void do_route_backward(Mat d_logits, ConstMat logits, const Routing& routing, const RouterParams& params,
                         std::span<const float> gains) override {
    polylora::route_backward(d_logits, logits, routing, params, gains);
  }
  void do_adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
                const AdamwParams& params) override {
    training_.adamw(p, m, v, g, params);
  }
  double do_sum_squares(std::span<const float> x) override { return training_.sum_squares(x); }
  void do_lora_merge(Mat w, ConstMat a, ConstMat b, float scale) override {
    training_.lora_merge(w, a, b, scale);
  }

 private:
  /// body(item) for each of `count` items, on all threads when `elements` in total are worth it.
  template <typename Body>
  void for_each(int64_t count, int64_t elements, Body body) {
    if (count <= 1 || elements < kInlineElements || pool_.size() == 1) {
      for (int64_t item = 0; item < count; ++item) body(item);
      return;
    }
    pool_.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) body(item);
    });
  }

  template <typename Body>
  void for_rows(int64_t rows, int64_t width, Body body) {
    for_each(rows, rows * width, body);
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  Linear linear_;
  LoraDelta lora_delta_;
  PagedAttention attention_;
  AttentionBackwardDriver attention_backward_;
  LinearDx linear_dx_;
  LinearDw linear_dw_;
  LoraBackward lora_backward_;
  TrainingOps training_;
};

struct Isa {
  std::string_view name;
  const Kernels& (*kernels)();
  bool (*runs_here)();
};

/// Best first.
constexpr Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", avx512_kernels,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
     }},
    {"avx2", avx2_kernels, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"generic", generic_kernels, [] { return true; }},
};

}  // namespace
}  // namespace cpu

std::vector<std::string_view> available_isas() {
  std::vector<std::string_view> names;
  for (const cpu::Isa& isa : cpu::kIsas) {
    if (isa.runs_here()) names.push_back(isa.name);
  }
  return names;
}

std::unique_ptr<TrainingBackend> make_cpu_backend(std::string_view name, int threads) {
  for (const cpu::Isa& isa : cpu::kIsas) {
    if (name.empty() ? !isa.runs_here() : name != isa.name) continue;
    if (!isa.runs_here()) fail(ErrorCode::kUnsupported, "this machine cannot run {} kernels", name);
    return std::make_unique<cpu::CpuBackend>(isa.kernels(), threads);
  }
  fail(ErrorCode::kInvalidArgument, "unknown instruction set \"{}\": POLYLORA_ISA is generic, avx2 or avx512",
       name);
}

}  // namespace polylora
