#include "ops/ref_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "base/error.h"
#include "ops/quant.h"
#include "ops/ref_training.h"

namespace polylora {
namespace {

using ref::round_to;

/// f32 and bf16 weights are kept as the floats they stand for; q8 and q4 as groups, because their arithmetic
/// is on the integers.
class RefWeight final : public Weight {
 public:
  RefWeight(const WeightSource& source, WeightFormat format)
      : format_(format), rows_(static_cast<int64_t>(source.rows.size())), cols_(source.cols) {
    if (is_quantised()) {
      quantise(source);
    } else {
      widen(source);
    }
  }

  WeightFormat format() const override { return format_; }
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t bytes() const override {
    return floats_.size() * sizeof(float) + groups_.size() * sizeof(QuantGroup);
  }

  bool is_quantised() const { return format_ == WeightFormat::kQ8 || format_ == WeightFormat::kQ4; }
  const QuantScheme& scheme() const { return scheme_; }
  const QuantGroup* group_row(int64_t row) const { return groups_.data() + row * (cols_ / kQuantGroup); }

  void read_row(int64_t row, float* out) const override {
    for (int64_t col = 0; col < cols_; ++col) out[col] = at(row, col);
  }

  float at(int64_t row, int64_t col) const {
    if (!is_quantised()) return floats_[static_cast<size_t>(row * cols_ + col)];
    const QuantGroup& group = group_row(row)[col / kQuantGroup];
    const auto q = static_cast<float>(group.q[col % kQuantGroup] - scheme_.zero_point);
    return f16_to_f32(group.scale) * q + f16_to_f32(group.min);
  }

 private:
  void widen(const WeightSource& source) {
    floats_.resize(static_cast<size_t>(rows_ * cols_));
    for (int64_t r = 0; r < rows_; ++r) {
      source.rows[static_cast<size_t>(r)].read(cols_, floats_.data() + r * cols_);
    }
    const DType dtype = format_ == WeightFormat::kBf16 ? DType::kBf16 : DType::kF32;
    for (float& value : floats_) value = round_to(dtype, value);
  }

  void quantise(const WeightSource& source) {
    scheme_ = quant_scheme(source, format_);
    groups_.resize(static_cast<size_t>(rows_ * (cols_ / kQuantGroup)));
    for (int64_t r = 0; r < rows_; ++r) {
      quantize_row(source.rows[static_cast<size_t>(r)], cols_, format_, scheme_,
                   groups_.data() + r * (cols_ / kQuantGroup));
    }
  }

  WeightFormat format_;
  int64_t rows_;
  int64_t cols_;
  QuantScheme scheme_;
  std::vector<float> floats_;
  std::vector<QuantGroup> groups_;
};

struct RefPair {
  int64_t n_begin;
  int64_t n_count;
  int64_t rank;
  std::vector<float> h_scale;  // [rank]
  std::vector<float> a;        // [rank, K]
  std::vector<float> b;        // [n_count, rank]
};

class RefLora final : public LoraWeight {
 public:
  RefLora(const LoraSource& source, DType dtype) : dtype_(dtype), k_(source.k), n_(source.n) {
    for (const LoraPairSource& pair : source.pairs)
      pairs_.push_back(dtype == DType::kI8 ? quantised(pair) : rounded(pair));
  }

  int64_t total_rank() const override {
    int64_t total = 0;
    for (const RefPair& pair : pairs_) total += pair.rank;
    return total;
  }
  size_t bytes() const override {
    size_t total = 0;
    for (const RefPair& pair : pairs_) total += (pair.a.size() + pair.b.size()) * sizeof(float);
    return total;
  }

  DType dtype() const { return dtype_; }
  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  const std::vector<RefPair>& pairs() const { return pairs_; }

 private:
  RefPair rounded(const LoraPairSource& pair) const {
    const auto read = [&](const void* data, int64_t count) {
      std::vector<float> values(static_cast<size_t>(count));
      dequantize_row(pair.dtype, data, count, values.data());
      for (float& value : values) value = round_to(dtype_, value);
      return values;
    };
    return {pair.n_begin,
            pair.n_count,
            pair.rank,
            std::vector<float>(static_cast<size_t>(pair.rank), pair.scale),
            read(pair.a, pair.rank * k_),
            read(pair.b, pair.n_count * pair.rank)};
  }

  RefPair quantised(const LoraPairSource& pair) const {
    const Int8LoraPair q = quantize_lora_pair(pair, k_);
    return {
        pair.n_begin, pair.n_count, pair.rank, q.h_scale, {q.a.begin(), q.a.end()}, {q.b.begin(), q.b.end()}};
  }

  DType dtype_;
  int64_t k_;
  int64_t n_;
  std::vector<RefPair> pairs_;
};

/// keys and values [layer][page][token in page][G*E], as the floats they stand for.
class RefKvCache final : public KvCache {
 public:
  explicit RefKvCache(const KvCacheShape& shape)
      : shape_(shape), keys_(elements(shape)), values_(elements(shape)) {}

  const KvCacheShape& shape() const override { return shape_; }
  size_t bytes() const override { return (keys_.size() + values_.size()) * sizeof(float); }

  size_t width() const { return static_cast<size_t>(shape_.kv_heads) * static_cast<size_t>(shape_.head_dim); }
  float* key(int layer, int page, int token) { return keys_.data() + offset(layer, page, token); }
  float* value(int layer, int page, int token) { return values_.data() + offset(layer, page, token); }
  const float* key(int layer, int page, int token) const { return keys_.data() + offset(layer, page, token); }
  const float* value(int layer, int page, int token) const {
    return values_.data() + offset(layer, page, token);
  }

 private:
  static size_t elements(const KvCacheShape& s) {
    return static_cast<size_t>(s.layers) * static_cast<size_t>(s.pages) * kKvPageSize *
           static_cast<size_t>(s.kv_heads) * static_cast<size_t>(s.head_dim);
  }
  size_t offset(int layer, int page, int token) const {
    const size_t page_index =
        static_cast<size_t>(layer) * static_cast<size_t>(shape_.pages) + static_cast<size_t>(page);
    return (page_index * kKvPageSize + static_cast<size_t>(token)) * width();
  }

  KvCacheShape shape_;
  std::vector<float> keys_;
  std::vector<float> values_;
};

/// A handle made by another backend is our bug.
template <typename Derived, typename Base>
Derived& as(Base& handle) {
  auto* derived = dynamic_cast<Derived*>(&handle);
  check(derived != nullptr, "the handle was made by another backend");
  return *derived;
}

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

double quantised_dot(const std::vector<ActivationGroup>& x, const QuantGroup* w, QuantScheme scheme) {
  double sum = 0.0;
  for (size_t g = 0; g < x.size(); ++g) {
    int products = 0;
    int x_sum = 0;
    for (int i = 0; i < kQuantGroup; ++i) {
      products += (w[g].q[i] - scheme.zero_point) * x[g].q[i];
      x_sum += x[g].q[i];
    }
    sum += double{x[g].scale} *
           (double{f16_to_f32(w[g].scale)} * products + double{f16_to_f32(w[g].min)} * x_sum);
  }
  return sum;
}

/// What is left of a row that is stored as integers up to ±levels with one scale.
void round_to_levels(std::span<float> row, float levels) {
  float largest = 0.0f;
  for (const float value : row) largest = std::max(largest, std::fabs(value));
  const bool tiny = largest < kTinyActivation;
  const float scale = tiny ? 0.0f : largest / levels;
  const float inverse = tiny ? 0.0f : levels / largest;
  for (float& value : row) value = scale * std::nearbyint(value * inverse);
}

/// One kv head's key or value as a cache of `dtype` keeps it.
void round_kv(DType dtype, std::span<float> row) {
  if (dtype == DType::kI8) return round_to_levels(row, 127.0f);
  for (float& value : row) value = round_to(dtype, value);
}

/// A query row as it is multiplied with such keys: 15 bits with int8.
void round_query(DType dtype, std::span<float> row) {
  if (dtype == DType::kI8) return round_to_levels(row, 127.0f * 128.0f);
  for (float& value : row) value = round_to(dtype, value);
}

/// All keys that a query at `position` sees, oldest first.
struct VisibleKeys {
  int first;
  int last;
};

VisibleKeys visible_keys(int position, const AttentionParams& params) {
  return {params.window > 0 ? std::max(0, position - params.window + 1) : 0, position};
}

class RefBackend final : public TrainingBackend {
 public:
  std::string_view name() const override { return "ref"; }
  std::string description() const override { return "ref (naive loops, 1 thread)"; }

 protected:
  std::unique_ptr<Weight> do_pack_weight(const WeightSource& source, WeightFormat format) override {
    return std::make_unique<RefWeight>(source, format);
  }

  std::unique_ptr<LoraWeight> do_pack_lora(const LoraSource& source, DType dtype) override {
    return std::make_unique<RefLora>(source, dtype);
  }

  std::unique_ptr<KvCache> do_make_kv_cache(const KvCacheShape& shape) override {
    return std::make_unique<RefKvCache>(shape);
  }

  void do_embed(Mat y, const Weight& w, std::span<const int32_t> ids) override {
    const auto& weight = as<const RefWeight>(w);
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t d = 0; d < y.cols; ++d) y.row(static_cast<int64_t>(t))[d] = weight.at(ids[t], d);
    }
  }

  void do_rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain,
                  float eps) override {
    const auto width = static_cast<int64_t>(gain.size());
    std::vector<float> row(gain.size());
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t begin = 0; begin < x.cols; begin += width) {
        for (int64_t d = 0; d < width; ++d) {
          const float added = delta.data != nullptr ? delta.row(t)[begin + d] : 0.0f;
          row[static_cast<size_t>(d)] = x.row(t)[begin + d] + added;
        }
        const double mean_square = dot(row.data(), row.data(), width) / static_cast<double>(width);
        const double inverse = 1.0 / std::sqrt(mean_square + double{eps});
        for (int64_t d = 0; d < width; ++d) {
          const auto i = static_cast<size_t>(d);
          if (sum.data != nullptr) sum.row(t)[begin + d] = row[i];
          y.row(t)[begin + d] = static_cast<float>(row[i] * inverse * gain[i]);
        }
      }
    }
  }

  void do_linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
                 std::span<const LoraGroup> groups) override {
    const auto& weight = as<const RefWeight>(w);
    for (int64_t t = 0; t < x.rows; ++t) {
      if (weight.is_quantised()) {
        linear_row_quantised(y.row(t), x.row(t), weight);
      } else {
        linear_row(y.row(t), x.row(t), weight);
      }
      for (size_t n = 0; n < bias.size(); ++n) y.row(t)[n] += bias[n];
    }
    do_lora_delta(y, x, groups);
  }

  void do_lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups) override {
    for (const LoraGroup& group : groups) {
      if (group.weight == nullptr) continue;
      const auto& lora = as<const RefLora>(*group.weight);
      check(lora.k() == x.cols && lora.n() == y.cols,
            "lora_delta: the adapter's widths are those of x and y");
      for (int64_t t = group.row_begin; t < group.row_end; ++t) {
        for (const RefPair& pair : lora.pairs()) {
          lora_row(y.row(t), x.row(t), pair, group.factor, lora.k(), lora.dtype());
        }
      }
    }
  }

  void do_rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table) override {
    for (size_t t = 0; t < positions.size(); ++t) {
      const float* angles = table.row(positions[t]);
      for (const Mat& heads : {q, k}) {
        for (int64_t head = 0; head < heads.cols; head += head_dim) {
          rotate(heads.row(static_cast<int64_t>(t)) + head, angles, head_dim / 2);
        }
      }
    }
  }

  void do_kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v,
                   std::span<const SequenceSpan> spans) override {
    auto& kv = as<RefKvCache>(cache);
    for (const SequenceSpan& span : spans) {
      for (int i = 0; i < span.row_count; ++i) {
        const int position = span.start_position + i;
        const int page = span.pages[static_cast<size_t>(position / kKvPageSize)];
        const int token = position % kKvPageSize;
        if (token == 0) clear_page(kv, layer, page);
        store_heads(kv, kv.key(layer, page, token), k.row(span.row_begin + i));
        store_heads(kv, kv.value(layer, page, token), v.row(span.row_begin + i));
      }
    }
  }

  void do_attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer,
                    std::span<const SequenceSpan> spans, const AttentionParams& params) override {
    const auto& kv = as<const RefKvCache>(cache);
    const int head_dim = kv.shape().head_dim;
    const int64_t heads = q.cols / head_dim;
    const int64_t heads_per_kv = heads / kv.shape().kv_heads;
    for (const SequenceSpan& span : spans) {
      for (int i = 0; i < span.row_count; ++i) {
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t column = head * head_dim;
          const int64_t row = span.row_begin + i;
          const double sum = attend(o.row(row) + column, q.row(row) + column, kv, layer,
                                    head / heads_per_kv * head_dim, span, span.start_position + i, params);
          if (lse.data != nullptr) lse.row(row)[head] = static_cast<float>(sum);
        }
      }
    }
  }

  void do_glu(Mat y, ConstMat gate_up, GluActivation activation) override {
    for (int64_t t = 0; t < y.rows; ++t) {
      for (int64_t f = 0; f < y.cols; ++f) {
        const double gate = gate_up.row(t)[f];
        y.row(t)[f] = static_cast<float>(activate(gate, activation) * gate_up.row(t)[y.cols + f]);
      }
    }
  }

  void do_softcap(Mat y, float cap) override {
    for (int64_t t = 0; t < y.rows; ++t) {
      for (int64_t n = 0; n < y.cols; ++n)
        y.row(t)[n] = static_cast<float>(double{cap} * std::tanh(double{y.row(t)[n]} / double{cap}));
    }
  }

  void do_add(Mat y, ConstMat x) override {
    for (int64_t t = 0; t < y.rows; ++t) {
      for (int64_t d = 0; d < y.cols; ++d) y.row(t)[d] += x.row(t)[d];
    }
  }

  void do_gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    for (size_t m = 0; m < rows.size(); ++m) {
      const float scale = scales.empty() ? 1.0f : scales[m];
      for (int64_t d = 0; d < x.cols; ++d) y.row(static_cast<int64_t>(m))[d] = scale * x.row(rows[m])[d];
    }
  }

  void do_scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    for (size_t m = 0; m < rows.size(); ++m) {
      const float scale = scales.empty() ? 1.0f : scales[m];
      for (int64_t d = 0; d < x.cols; ++d) y.row(rows[m])[d] += scale * x.row(static_cast<int64_t>(m))[d];
    }
  }

  void do_clear(Mat y) override {
    for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), y.cols, 0.0f);
  }

  Routing do_route(ConstMat logits, const RouterParams& params) override {
    return route_rows(logits, params, [](int64_t rows, auto pick) {
      for (int64_t t = 0; t < rows; ++t) pick(t);
    });
  }

  void do_scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) override {
    for (int64_t t = 0; t < y.rows; ++t) {
      for (size_t n = 0; n < gain.size(); ++n) y.row(t)[n] *= gain[n];
      for (size_t n = 0; n < shift.size(); ++n) y.row(t)[n] += shift[n];
    }
  }

  void do_linear_dx(Mat dx, ConstMat dy, const Weight& w, bool accumulate) override {
    const auto& weight = as<const RefWeight>(w);
    const DType dtype = weight.format() == WeightFormat::kF32 ? DType::kF32 : DType::kBf16;
    for (int64_t t = 0; t < dy.rows; ++t) {
      std::vector<double> sums(static_cast<size_t>(dx.cols));
      for (int64_t n = 0; n < dy.cols; ++n) {
        const double grad = round_to(dtype, dy.row(t)[n]);
        for (int64_t k = 0; k < dx.cols; ++k)
          sums[static_cast<size_t>(k)] += grad * double{round_to(dtype, weight.at(n, k))};
      }
      for (int64_t k = 0; k < dx.cols; ++k) {
        const auto sum = static_cast<float>(sums[static_cast<size_t>(k)]);
        dx.row(t)[k] = accumulate ? dx.row(t)[k] + sum : sum;
      }
    }
  }

  void do_lora_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const LoraGradient> pairs,
                        DType dtype) override {
    for (const LoraGradient& pair : pairs) ref::lora_backward(dx, dy, x, pair, dtype);
  }

  void do_rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps) override {
    const auto width = static_cast<int64_t>(gain.size());
    for (int64_t begin = 0; begin < x.cols; begin += width) {
      ref::rmsnorm_backward(dx.columns(begin, width), dy.columns(begin, width), x.columns(begin, width), gain,
                            eps);
    }
  }

  void do_rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions,
                        RopeTable table) override {
    std::vector<float> angles(table.row(0), table.row(0) + head_dim);
    for (size_t t = 0; t < positions.size(); ++t) {
      std::copy_n(table.row(positions[t]), head_dim, angles.data());
      for (int i = head_dim / 2; i < head_dim; ++i) angles[static_cast<size_t>(i)] *= -1.0f;
      for (const Mat& heads : {dq, dk}) {
        for (int64_t head = 0; head < heads.cols; head += head_dim) {
          rotate(heads.row(static_cast<int64_t>(t)) + head, angles.data(), head_dim / 2);
        }
      }
    }
  }

  void do_attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse, ConstMat q,
                             ConstMat k, ConstMat v, int head_dim, std::span<const SequenceSpan> spans,
                             const AttentionParams& params, DType dtype) override {
    for (const SequenceSpan& span : spans)
      ref::attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, head_dim, span, params, dtype);
  }

  void do_glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) override {
    ref::glu_backward(dgate_up, dy, gate_up, activation);
  }

  void do_softcap_backward(Mat dy, ConstMat y, float cap) override {
    for (int64_t t = 0; t < y.rows; ++t) {
      for (int64_t n = 0; n < y.cols; ++n) {
        const double tanh = double{y.row(t)[n]} / double{cap};
        dy.row(t)[n] = static_cast<float>(double{dy.row(t)[n]} * (1.0 - tanh * tanh));
      }
    }
  }

  void do_cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                        std::span<const float> weights) override {
    for (size_t m = 0; m < loss.size(); ++m) {
      const std::span<float> row(logits.row(static_cast<int64_t>(m)), static_cast<size_t>(logits.cols));
      loss[m] = ref::cross_entropy_row(row, targets[m], weights[m]);
    }
  }

  void do_scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows) override {
    for (size_t m = 0; m < rows.size(); ++m) {
      std::copy_n(x.row(static_cast<int64_t>(m)), x.cols, y.row(rows[m]));
    }
  }

  void do_dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) override {
    ref::dropout(y, x, p, keys, accumulate);
  }

  void do_add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) override {
    ref::add_noise(y, scale, keys);
  }

  void do_embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids) override {
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t d = 0; d < dw.cols; ++d) dw.row(ids[t])[d] += dy.row(static_cast<int64_t>(t))[d];
    }
  }

  void do_linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype) override {
    ref::linear_dw(dw, dy, x, dtype);
  }

  void do_column_dots(std::span<float> out, ConstMat a, ConstMat b) override {
    for (size_t n = 0; n < out.size(); ++n) {
      double sum = 0.0;
      for (int64_t t = 0; t < a.rows; ++t) sum += double{a.row(t)[n]} * double{b.row(t)[n]};
      out[n] += static_cast<float>(sum);
    }
  }

  void do_row_dots(std::span<float> out, ConstMat a, ConstMat b) override {
    for (size_t t = 0; t < out.size(); ++t) {
      const auto row = static_cast<int64_t>(t);
      out[t] = static_cast<float>(dot(a.row(row), b.row(row), a.cols));
    }
  }

  void do_route_backward(Mat d_logits, ConstMat logits, const Routing& routing, const RouterParams& params,
                         std::span<const float> gains) override {
    polylora::route_backward(d_logits, logits, routing, params, gains);
  }

  void do_adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
                const AdamwParams& params) override {
    ref::adamw(p, m, v, g, params);
  }

  double do_sum_squares(std::span<const float> x) override {
    return dot(x.data(), x.data(), static_cast<int64_t>(x.size()));
  }

  void do_lora_merge(Mat w, ConstMat a, ConstMat b, float scale) override {
    for (int64_t n = 0; n < w.rows; ++n) {
      for (int64_t k = 0; k < w.cols; ++k) {
        float product = 0.0f;
        for (int64_t r = 0; r < a.rows; ++r) product = std::fma(b.row(n)[r], a.row(r)[k], product);
        w.row(n)[k] += product * scale;
      }
    }
  }

 private:
  static void linear_row(float* y, const float* x, const RefWeight& weight) {
    const DType dtype = weight.format() == WeightFormat::kBf16 ? DType::kBf16 : DType::kF32;
    for (int64_t n = 0; n < weight.rows(); ++n) {
      double sum = 0.0;
      for (int64_t k = 0; k < weight.cols(); ++k)
        sum += double{round_to(dtype, x[k])} * double{weight.at(n, k)};
      y[n] = static_cast<float>(sum);
    }
  }

  static void linear_row_quantised(float* y, const float* x, const RefWeight& weight) {
    std::vector<ActivationGroup> groups;
    for (int64_t k = 0; k < weight.cols(); k += kQuantGroup) groups.push_back(quantize_activations(x + k));
    for (int64_t n = 0; n < weight.rows(); ++n) {
      y[n] = static_cast<float>(quantised_dot(groups, weight.group_row(n), weight.scheme()));
    }
  }

  static void lora_row(float* y, const float* x, const RefPair& pair, float factor, int64_t k, DType dtype) {
    std::vector<float> rounded(x, x + k);
    round_row(dtype, rounded);
    std::vector<float> h(static_cast<size_t>(pair.rank));
    for (int64_t r = 0; r < pair.rank; ++r) {
      const auto product = static_cast<float>(dot(rounded.data(), pair.a.data() + r * k, k));
      h[static_cast<size_t>(r)] = factor * pair.h_scale[static_cast<size_t>(r)] * product;
    }
    round_row(dtype, h);
    for (int64_t n = 0; n < pair.n_count; ++n) {
      y[pair.n_begin + n] += static_cast<float>(dot(h.data(), pair.b.data() + n * pair.rank, pair.rank));
    }
  }

  static void round_row(DType dtype, std::vector<float>& values) {
    if (dtype == DType::kI8) return round_to_int8_groups(values.data(), static_cast<int64_t>(values.size()));
    for (float& value : values) value = round_to(dtype, value);
  }

  static void rotate(float* head, const float* angles, int half) {
    for (int i = 0; i < half; ++i) {
      const float cosine = angles[i];
      const float sine = angles[half + i];
      const float low = head[i];
      const float high = head[half + i];
      head[i] = low * cosine - high * sine;
      head[half + i] = high * cosine + low * sine;
    }
  }

  static void store_heads(const RefKvCache& kv, float* out, const float* row) {
    std::copy_n(row, kv.width(), out);
    const auto head_dim = static_cast<size_t>(kv.shape().head_dim);
    for (size_t c = 0; c < kv.width(); c += head_dim) round_kv(kv.shape().dtype, {out + c, head_dim});
  }

  static void clear_page(RefKvCache& kv, int layer, int page) {
    std::fill_n(kv.key(layer, page, 0), kv.width() * kKvPageSize, 0.0f);
    std::fill_n(kv.value(layer, page, 0), kv.width() * kKvPageSize, 0.0f);
  }

  /// Returns log Σ exp(score).
  static double attend(float* o, const float* q, const RefKvCache& kv, int layer, int64_t kv_column,
                       const SequenceSpan& span, int position, const AttentionParams& params) {
    const int head_dim = kv.shape().head_dim;
    const VisibleKeys visible = visible_keys(position, params);
    const auto page_of = [&](int p) { return span.pages[static_cast<size_t>(p / kKvPageSize)]; };
    std::vector<float> query(q, q + head_dim);
    round_query(kv.shape().dtype, query);

    std::vector<double> weights;
    double largest = -std::numeric_limits<double>::infinity();
    for (int p = visible.first; p <= visible.last; ++p) {
      const float* key = kv.key(layer, page_of(p), p % kKvPageSize) + kv_column;
      double score = params.scale * dot(query.data(), key, head_dim);
      if (params.softcap > 0.0f) score = params.softcap * std::tanh(score / params.softcap);
      weights.push_back(score);
      largest = std::max(largest, score);
    }
    double total = 0.0;
    for (double& weight : weights) total += weight = std::exp(weight - largest);

    std::vector<double> sums(static_cast<size_t>(head_dim));
    for (int p = visible.first; p <= visible.last; ++p) {
      const float* value = kv.value(layer, page_of(p), p % kKvPageSize) + kv_column;
      const double weight = weights[static_cast<size_t>(p - visible.first)] / total;
      for (size_t d = 0; d < sums.size(); ++d) sums[d] += weight * value[d];
    }
    for (size_t d = 0; d < sums.size(); ++d) o[d] = static_cast<float>(sums[d]);
    return largest + std::log(total);
  }

  static double activate(double gate, GluActivation activation) {
    if (activation == GluActivation::kSilu) return gate / (1.0 + std::exp(-gate));
    const double inner = std::sqrt(2.0 / std::numbers::pi) * (gate + 0.044715 * gate * gate * gate);
    return 0.5 * gate * (1.0 + std::tanh(inner));
  }
};

}  // namespace

std::unique_ptr<TrainingBackend> make_ref_backend() {
  return std::make_unique<RefBackend>();
}

}  // namespace polylora
