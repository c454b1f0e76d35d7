#include "ops/ref_training.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/rng.h"

namespace polylora::ref {
namespace {

/// Row-major rows × cols doubles.
struct Doubles {
  Doubles(int64_t rows_, int64_t cols_) : cols(cols_), values(static_cast<size_t>(rows_ * cols_)) {}
  double& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * cols + c)]; }
  int64_t cols;
  std::vector<double> values;
};

/// Scores of one query against the keys it sees, and what the softmax made of them.
struct Row {
  int64_t first_key = 0;
  std::vector<double> p;      // probability
  std::vector<double> slope;  // d score / d (q·k), the softcap's share in it
};

double dot(const float* a, const float* b, int64_t count, DType dtype) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += double{round_to(dtype, a[i])} * double{round_to(dtype, b[i])};
  return sum;
}

Row attention_row(const float* q, ConstMat k, int64_t k_column, int head_dim, const SequenceSpan& span,
                  int64_t position, double lse, const AttentionParams& params, DType dtype) {
  Row row;
  row.first_key = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
  for (int64_t j = row.first_key; j <= position; ++j) {
    double score = params.scale * dot(q, k.row(span.row_begin + j) + k_column, head_dim, dtype);
    double slope = params.scale;
    if (params.softcap > 0.0f) {
      const double t = std::tanh(score / params.softcap);
      score = params.softcap * t;
      slope *= 1.0 - t * t;
    }
    row.p.push_back(std::exp(score - lse));
    row.slope.push_back(slope);
  }
  return row;
}

struct Activation {
  double value, slope;
};

Activation activate(double g, GluActivation activation) {
  if (activation == GluActivation::kSilu) {
    const double s = 1.0 / (1.0 + std::exp(-g));
    return {g * s, s * (1.0 + g * (1.0 - s))};
  }
  const double c = std::sqrt(2.0 / std::numbers::pi);
  const double t = std::tanh(c * (g + 0.044715 * g * g * g));
  return {0.5 * g * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * c * (1.0 + 3 * 0.044715 * g * g)};
}

}  // namespace

float round_to(DType dtype, float value) {
  return dtype == DType::kBf16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

void lora_backward(Mat dx, ConstMat dy, ConstMat x, const LoraGradient& pair, DType dtype) {
  const int64_t rows = x.rows, width = x.cols, rank = pair.a.rows;
  const auto r16 = [dtype](double value) { return double{round_to(dtype, static_cast<float>(value))}; };
  const auto g = [&](int64_t t, int64_t n) { return r16(pair.scale * dy.row(t)[pair.n_begin + n]); };
  Doubles h(rows, rank), dh(rows, rank);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t r = 0; r < rank; ++r) {
      h.at(t, r) = r16(dot(x.row(t), pair.a.row(r), width, dtype));
      double sum = 0.0;
      for (int64_t n = 0; n < pair.n_count; ++n) sum += g(t, n) * r16(pair.b.row(n)[r]);
      dh.at(t, r) = r16(sum);
    }
  }
  for (int64_t r = 0; r < rank; ++r) {
    for (int64_t n = 0; n < pair.n_count; ++n) {
      double sum = 0.0;
      for (int64_t t = 0; t < rows; ++t) sum += g(t, n) * h.at(t, r);
      pair.db.row(n)[r] += static_cast<float>(sum);
    }
    for (int64_t k = 0; k < width; ++k) {
      double sum = 0.0;
      for (int64_t t = 0; t < rows; ++t) sum += dh.at(t, r) * r16(x.row(t)[k]);
      pair.da.row(r)[k] += static_cast<float>(sum);
    }
  }
  if (dx.data == nullptr) return;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t k = 0; k < width; ++k) {
      double sum = 0.0;
      for (int64_t r = 0; r < rank; ++r) sum += dh.at(t, r) * r16(pair.a.row(r)[k]);
      dx.row(t)[k] += static_cast<float>(sum);
    }
  }
}

// With n = x·rsqrt(mean(x²)+eps): dx = (gain·dy − n·mean(n·gain·dy)) · rsqrt(mean(x²)+eps)
void rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps) {
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0.0, projection = 0.0;
    for (int64_t d = 0; d < x.cols; ++d) {
      squares += double{x.row(t)[d]} * double{x.row(t)[d]};
      projection += double{x.row(t)[d]} * double{gain[static_cast<size_t>(d)]} * double{dy.row(t)[d]};
    }
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + double{eps});
    const double along = projection * inverse * inverse / static_cast<double>(x.cols);
    for (int64_t d = 0; d < x.cols; ++d) {
      const double straight = double{gain[static_cast<size_t>(d)]} * double{dy.row(t)[d]};
      dx.row(t)[d] += static_cast<float>(inverse * (straight - along * x.row(t)[d]));
    }
  }
}

// With P = softmax(S): dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − rowsum(dO∘O)), dQ = dS'·K, dK = dS'ᵀ·Q.
void attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse, ConstMat q,
                        ConstMat k, ConstMat v, int head_dim, const SequenceSpan& span,
                        const AttentionParams& params, DType dtype) {
  const int64_t heads = q.cols / head_dim, heads_per_kv = q.cols / k.cols;
  Doubles dk_sum(span.row_count, k.cols), dv_sum(span.row_count, k.cols);
  for (int64_t i = 0; i < span.row_count; ++i) {
    const int64_t t = span.row_begin + i;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t column = h * head_dim, kv = h / heads_per_kv * head_dim;
      const float* query = q.row(t) + column;
      const float* dout = d_o.row(t) + column;
      const Row row = attention_row(query, k, kv, head_dim, span, i, lse.row(t)[h], params, dtype);
      const double delta = dot(dout, o.row(t) + column, head_dim, DType::kF32);
      std::vector<double> dquery(static_cast<size_t>(head_dim));
      for (size_t s = 0; s < row.p.size(); ++s) {
        const int64_t j = row.first_key + static_cast<int64_t>(s);
        const float* key = k.row(span.row_begin + j) + kv;
        const double dp = dot(dout, v.row(span.row_begin + j) + kv, head_dim, dtype);
        const double ds = row.p[s] * (dp - delta) * row.slope[s];
        for (int64_t e = 0; e < head_dim; ++e) {
          dquery[static_cast<size_t>(e)] += ds * double{round_to(dtype, key[e])};
          dk_sum.at(j, kv + e) += ds * double{round_to(dtype, query[e])};
          dv_sum.at(j, kv + e) += row.p[s] * double{round_to(dtype, dout[e])};
        }
      }
      for (int64_t e = 0; e < head_dim; ++e)
        dq.row(t)[column + e] = static_cast<float>(dquery[static_cast<size_t>(e)]);
    }
  }
  for (int64_t i = 0; i < span.row_count; ++i) {
    for (int64_t c = 0; c < k.cols; ++c) {
      dk.row(span.row_begin + i)[c] = static_cast<float>(dk_sum.at(i, c));
      dv.row(span.row_begin + i)[c] = static_cast<float>(dv_sum.at(i, c));
    }
  }
}

void glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) {
  const int64_t width = dy.cols;
  for (int64_t t = 0; t < dy.rows; ++t) {
    for (int64_t f = 0; f < width; ++f) {
      const double up = gate_up.row(t)[width + f], grad = dy.row(t)[f];
      const Activation gate = activate(gate_up.row(t)[f], activation);
      dgate_up.row(t)[f] = static_cast<float>(grad * up * gate.slope);
      dgate_up.row(t)[width + f] = static_cast<float>(grad * gate.value);
    }
  }
}

float cross_entropy_row(std::span<float> logits, int32_t target, float weight) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (const float logit : logits) total += std::exp(logit - largest);
  const double loss = std::log(total) + largest - logits[static_cast<size_t>(target)];
  for (float& logit : logits) logit = static_cast<float>(weight * std::exp(logit - largest) / total);
  logits[static_cast<size_t>(target)] -= weight;
  return static_cast<float>(loss);
}

void dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) {
  const auto threshold = static_cast<uint64_t>(std::lround(65536.0 * double{p}));
  const float kept = 1.0f / (1.0f - p);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t i = 0; i < x.cols; ++i) {
      const auto counter = static_cast<uint64_t>(i);
      const uint64_t bits = random_bits(keys.rows[static_cast<size_t>(t)], keys.stream, counter / 4);
      const bool dropped = (bits >> (16 * (counter % 4)) & 0xffff) < threshold;
      const float value = dropped ? 0.0f : x.row(t)[i] * kept;
      y.row(t)[i] = accumulate ? y.row(t)[i] + value : value;
    }
  }
}

void add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) {
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t i = 0; i < y.cols; ++i) {
      const auto row = static_cast<size_t>(t);
      const double u = random_uniform(keys.rows[row], keys.stream, static_cast<uint64_t>(i));
      y.row(t)[i] += scale[row] * static_cast<float>(2.0 * u - 1.0);
    }
  }
}

void linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype) {
  for (int64_t n = 0; n < dw.rows; ++n) {
    for (int64_t k = 0; k < dw.cols; ++k) {
      double sum = 0.0;
      for (int64_t t = 0; t < x.rows; ++t)
        sum += double{round_to(dtype, dy.row(t)[n])} * double{round_to(dtype, x.row(t)[k])};
      dw.row(n)[k] += static_cast<float>(sum);
    }
  }
}

void adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
           const AdamwParams& a) {
  const double step = static_cast<double>(a.step);
  const double step_size = a.learning_rate / (1.0 - std::pow(double{a.beta1}, step));
  const double root = std::sqrt(1.0 - std::pow(double{a.beta2}, step));
  for (size_t i = 0; i < p.size(); ++i) {
    const double gradient = double{g[i]} * double{a.gradient_scale};
    p[i] = static_cast<float>(p[i] * (1.0 - double{a.learning_rate} * double{a.weight_decay}));
    m[i] = static_cast<float>(double{a.beta1} * m[i] + (1.0 - double{a.beta1}) * gradient);
    v[i] = static_cast<float>(double{a.beta2} * v[i] + (1.0 - double{a.beta2}) * gradient * gradient);
    p[i] -= static_cast<float>(step_size * m[i] / (std::sqrt(double{v[i]}) / root + double{a.epsilon}));
  }
}

}  // namespace polylora::ref
