#include "ops/cpu/training_ops.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace polylora::cpu {
namespace {

constexpr int64_t kInlineElements = 1 << 12;  // less is done before the other threads would have woken
constexpr int64_t kColumns = 128;             // in a run of columns: 512 bytes of each row
constexpr int64_t kBlock = 4096;              // elements of a flat array that one sum or update covers

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// One row of dropout: four elements share a random word. Words are drawn for a run of elements first, so
/// that they overlap and no branch has to guess which elements fall.
template <bool kAdd>
void dropout_row(float* y, const float* x, int64_t n, uint64_t key, uint64_t stream, uint32_t threshold,
                 float kept) {
  constexpr int64_t kElements = 64;
  uint16_t draws[kElements];
  for (int64_t first = 0; first < n; first += kElements) {
    const int64_t count = std::min(kElements, n - first);
    for (int64_t i = 0; i < count; i += 4) {
      const uint64_t bits = random_bits(key, stream, static_cast<uint64_t>((first + i) / 4));
      for (int j = 0; j < 4; ++j) draws[i + j] = static_cast<uint16_t>(bits >> (16 * j));
    }
    for (int64_t i = 0; i < count; ++i) {
      const float whole = x[first + i] * kept;
      const float value = draws[i] < threshold ? 0.0f : whole;
      y[first + i] = kAdd ? y[first + i] + value : value;
    }
  }
}

}  // namespace

template <typename Body>
void TrainingOps::for_each(int64_t count, int64_t elements, Body body) {
  if (count <= 1 || elements < kInlineElements || pool_.size() == 1) {
    for (int64_t item = 0; item < count; ++item) body(item);
    return;
  }
  pool_.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) body(item);
  });
}

template <typename Body>
void TrainingOps::for_columns(int64_t cols, int64_t elements, Body body) {
  for_each(ceil_div(cols, kColumns), elements, [&](int64_t item) {
    const int64_t first = item * kColumns;
    body(first, std::min(kColumns, cols - first));
  });
}

void TrainingOps::rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps) {
  const auto width = static_cast<int64_t>(gain.size());
  for_each(x.rows, x.rows * x.cols, [&](int64_t t) {
    for (int64_t begin = 0; begin < x.cols; begin += width) {
      training_.rmsnorm_backward(dx.row(t) + begin, dy.row(t) + begin, x.row(t) + begin, gain.data(), width,
                                 eps);
    }
  });
}

void TrainingOps::rope_backward(Mat dq, Mat dk, int head_dim, std::span<const int32_t> positions,
                                RopeTable table) {
  const int64_t half = head_dim / 2;
  for_each(dq.rows, dq.rows * (dq.cols + dk.cols), [&](int64_t t) {
    const float* cosine = table.row(positions[static_cast<size_t>(t)]);
    for (const Mat& heads : {dq, dk}) {
      for (int64_t c = 0; c < heads.cols; c += head_dim)
        training_.rope_backward(heads.row(t) + c, cosine, cosine + half, half);
    }
  });
}

void TrainingOps::glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation) {
  const auto kernel =
      activation == GluActivation::kSilu ? training_.silu_backward : training_.gelu_tanh_backward;
  const int64_t width = dy.cols;
  for_each(dy.rows, dy.rows * width * 4, [&](int64_t t) {
    const float* gate = gate_up.row(t);
    float* dgate = dgate_up.row(t);
    kernel(dgate, dgate + width, dy.row(t), gate, gate + width, width);
  });
}

void TrainingOps::softcap_backward(Mat dy, ConstMat y, float cap) {
  for_each(y.rows, y.rows * y.cols,
           [&](int64_t m) { training_.softcap_backward(dy.row(m), y.row(m), y.cols, cap); });
}

void TrainingOps::cross_entropy(std::span<float> loss, Mat logits, std::span<const int32_t> targets,
                                std::span<const float> weights) {
  for_each(logits.rows, logits.rows * logits.cols * 4, [&](int64_t m) {
    const auto i = static_cast<size_t>(m);
    float* row = logits.row(m);
    const double target = row[targets[i]];
    float largest, total;
    training_.softmax(row, logits.cols, weights[i], &largest, &total);
    row[targets[i]] -= weights[i];
    loss[i] = static_cast<float>(std::log(double{total}) + double{largest} - target);
  });
}

void TrainingOps::scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) {
  for_each(y.rows, y.rows * y.cols, [&](int64_t t) {
    training_.scale_by(y.row(t), gain.data(), y.cols);
    if (!shift.empty()) kernels_.add(y.row(t), shift.data(), y.cols);
  });
}

void TrainingOps::scatter_rows(Mat y, ConstMat x, std::span<const int32_t> rows) {
  for_each(x.rows, x.rows * x.cols,
           [&](int64_t m) { std::copy_n(x.row(m), x.cols, y.row(rows[static_cast<size_t>(m)])); });
}

void TrainingOps::dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate) {
  const auto threshold = static_cast<uint32_t>(std::lround(65536.0 * double{p}));
  const float kept = 1.0f / (1.0f - p);
  const auto row = accumulate ? dropout_row<true> : dropout_row<false>;
  for_each(x.rows, x.rows * x.cols * 4, [&](int64_t t) {
    row(y.row(t), x.row(t), x.cols, keys.rows[static_cast<size_t>(t)], keys.stream, threshold, kept);
  });
}

void TrainingOps::add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys) {
  for_each(y.rows, y.rows * y.cols * 8, [&](int64_t t) {
    const auto row = static_cast<size_t>(t);
    for (int64_t i = 0; i < y.cols; ++i) {
      const double u = random_uniform(keys.rows[row], keys.stream, static_cast<uint64_t>(i));
      y.row(t)[i] += scale[row] * static_cast<float>(2.0 * u - 1.0);
    }
  });
}

void TrainingOps::embed_backward(Mat dw, ConstMat dy, std::span<const int32_t> ids) {
  for_columns(dw.cols, dy.rows * dy.cols, [&](int64_t first, int64_t count) {
    for (size_t t = 0; t < ids.size(); ++t)
      kernels_.add(dw.row(ids[t]) + first, dy.row(static_cast<int64_t>(t)) + first, count);
  });
}

void TrainingOps::column_dots(std::span<float> out, ConstMat a, ConstMat b) {
  for_columns(a.cols, a.rows * a.cols, [&](int64_t first, int64_t count) {
    training_.column_dots(out.data() + first, a.data + first, a.stride, b.data + first, b.stride, a.rows,
                          count);
  });
}

void TrainingOps::adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
                        const AdamwParams& params) {
  const auto step = static_cast<double>(params.step);
  const double rate = params.learning_rate, beta1 = params.beta1, beta2 = params.beta2;
  const AdamwFactors factors = {
      .gradient_scale = params.gradient_scale,
      .keep = static_cast<float>(1.0 - rate * double{params.weight_decay}),
      .beta1 = params.beta1,
      .rest1 = static_cast<float>(1.0 - beta1),
      .beta2 = params.beta2,
      .rest2 = static_cast<float>(1.0 - beta2),
      .inverse_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, step))),
      .step_size = static_cast<float>(rate / (1.0 - std::pow(beta1, step))),
      .epsilon = params.epsilon,
  };
  const auto n = static_cast<int64_t>(p.size());
  for_each(ceil_div(n, kBlock), n, [&](int64_t block) {
    const int64_t i = block * kBlock;
    training_.adamw(p.data() + i, m.data() + i, v.data() + i, g.data() + i, std::min(kBlock, n - i), factors);
  });
}

double TrainingOps::sum_squares(std::span<const float> x) {
  const auto n = static_cast<int64_t>(x.size());
  const int64_t blocks = ceil_div(n, kBlock);
  block_sums_.resize(static_cast<size_t>(blocks));
  for_each(blocks, n, [&](int64_t block) {
    const int64_t i = block * kBlock;
    block_sums_[static_cast<size_t>(block)] = training_.sum_squares(x.data() + i, std::min(kBlock, n - i));
  });
  double sum = 0.0;
  for (const float part : block_sums_) sum += double{part};
  return sum;
}

void TrainingOps::lora_merge(Mat w, ConstMat a, ConstMat b, float scale) {
  for_each(w.rows, w.rows * w.cols * a.rows, [&](int64_t n) {
    training_.lora_merge(w.row(n), a.data, a.stride, b.row(n), a.rows, w.cols, scale);
  });
}

}  // namespace polylora::cpu
