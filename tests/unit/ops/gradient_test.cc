// Every backward op of ref is the derivative of its forward op: checked with finite differences of Σ c∘y in
// f32. The kernels are then compared with ref in training_ops_test.cc and attention_test.cc.
#include <functional>
#include <numeric>

#include "ops_testing.h"

namespace polylora {
namespace {

/// What a forward op makes of one of its inputs.
using Forward = std::function<Matrix(const Matrix& x)>;

double weighted_sum(const Matrix& c, const Matrix& y) {
  double sum = 0.0;
  for (size_t i = 0; i < y.values().size(); ++i) sum += double{c.values()[i]} * double{y.values()[i]};
  return sum;
}

/// d (Σ c∘f(x)) / dx by the five-point stencil, whose error is of fourth order: with steps of 1/32 and
/// results of f32 that leaves about five digits.
Matrix numeric_gradient(const Forward& f, const Matrix& x, const Matrix& c) {
  constexpr float kStep = 0.03125f;
  Matrix gradient = x;
  Matrix moved = x;
  for (size_t i = 0; i < x.values().size(); ++i) {
    const auto at = [&](float steps) {
      moved.values()[i] = x.values()[i] + steps * kStep;
      return weighted_sum(c, f(moved));
    };
    const double slope = (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * double{kStep});
    moved.values()[i] = x.values()[i];
    gradient.values()[i] = static_cast<float>(slope);
  }
  return gradient;
}

void expect_gradient(const Forward& f, const Matrix& x, const Matrix& c, const Matrix& actual,
                     const std::string& what, double tolerance = 1e-4) {
  expect_near(numeric_gradient(f, x, c), actual, tolerance, what);
}

/// `+=` ops start from this, so that overwriting would show.
constexpr float kBefore = 0.5f;

Matrix minus_before(Matrix m) {
  for (float& value : m.values()) value -= kBefore;
  return m;
}

class Gradient : public testing::Test {
 protected:
  std::unique_ptr<Weight> pack(const Matrix& w) { return ref_->pack_weight(rows_of(w), WeightFormat::kF32); }

  const std::unique_ptr<TrainingBackend> ref_ = make_ref_backend();
};

TEST_F(Gradient, Linear) {
  const Matrix w = Matrix::random(7, 5, 1), x = Matrix::random(4, 5, 2), c = Matrix::random(4, 7, 3);
  const auto of_x = [&](const Matrix& input) {
    Matrix y(4, 7);
    ref_->linear(y, input, *pack(w), {});
    return y;
  };
  const auto of_w = [&](const Matrix& weight) {
    Matrix y(4, 7);
    ref_->linear(y, x, *pack(weight), {});
    return y;
  };
  Matrix dx(4, 5, 9.0f), more(4, 5, kBefore), dw(7, 5, kBefore);
  ref_->linear_dx(dx, c, *pack(w), false);
  ref_->linear_dx(more, c, *pack(w), true);
  ref_->linear_dw(dw, c, x, DType::kF32);
  expect_gradient(of_x, x, c, dx, "linear_dx");
  expect_gradient(of_x, x, c, minus_before(more), "linear_dx, accumulated");
  expect_gradient(of_w, w, c, minus_before(dw), "linear_dw");
}

TEST_F(Gradient, Lora) {
  constexpr int64_t kT = 4, kK = 6, kN = 9;
  struct Shape {
    int64_t n_begin, n_count, rank;
    float scale;
  };
  constexpr Shape kShapes[] = {{0, 4, 3, 0.5f}, {5, 3, 2, 2.0f}};  // with a gap, and a last column without
  std::vector<Matrix> a, b, da, db;
  for (const Shape& shape : kShapes) {
    a.push_back(Matrix::random(shape.rank, kK, 10 + a.size()));
    b.push_back(Matrix::random(shape.n_count, shape.rank, 20 + a.size()));
    da.emplace_back(shape.rank, kK, kBefore);
    db.emplace_back(shape.n_count, shape.rank, kBefore);
  }
  const Matrix x = Matrix::random(kT, kK, 30), c = Matrix::random(kT, kN, 31);
  const auto forward = [&](const Matrix& input, const std::vector<Matrix>& as,
                           const std::vector<Matrix>& bs) {
    LoraSource source{.k = kK, .n = kN, .pairs = {}};
    for (size_t i = 0; i < as.size(); ++i) {
      const Shape& s = kShapes[i];
      source.pairs.push_back(
          {s.n_begin, s.n_count, s.rank, s.scale, as[i].values().data(), bs[i].values().data(), DType::kF32});
    }
    const auto weight = ref_->pack_lora(source, DType::kF32);
    const LoraGroup group{0, kT, weight.get()};
    Matrix y(kT, kN);
    ref_->lora_delta(y, input, std::span(&group, 1));
    return y;
  };
  std::vector<LoraGradient> pairs;
  for (size_t i = 0; i < a.size(); ++i) {
    const Shape& s = kShapes[i];
    pairs.push_back({s.n_begin, s.n_count, s.scale, a[i], b[i], da[i], db[i]});
  }
  Matrix dx(kT, kK, kBefore);
  ref_->lora_backward(dx, c, x, pairs, DType::kF32);
  expect_gradient([&](const Matrix& m) { return forward(m, a, b); }, x, c, minus_before(dx), "lora dx");
  for (size_t i = 0; i < a.size(); ++i) {
    const auto of_a = [&](const Matrix& m) {
      std::vector<Matrix> moved = a;
      moved[i] = m;
      return forward(x, moved, b);
    };
    const auto of_b = [&](const Matrix& m) {
      std::vector<Matrix> moved = b;
      moved[i] = m;
      return forward(x, a, moved);
    };
    expect_gradient(of_a, a[i], c, minus_before(da[i]), "lora da");
    expect_gradient(of_b, b[i], c, minus_before(db[i]), "lora db");
  }
}

TEST_F(Gradient, Rmsnorm) {
  const Matrix x = Matrix::random(3, 13, 1), gain = Matrix::random(1, 13, 2), c = Matrix::random(3, 13, 3);
  const auto forward = [&](const Matrix& input) {
    Matrix y(3, 13);
    ref_->rmsnorm(y, {}, input, {}, gain.values(), 0.1f);
    return y;
  };
  Matrix dx(3, 13, kBefore);
  ref_->rmsnorm_backward(dx, c, x, gain.values(), 0.1f);
  expect_gradient(forward, x, c, minus_before(dx), "rmsnorm");
}

TEST_F(Gradient, RmsnormOfHeads) {
  const Matrix x = Matrix::random(3, 15, 1), gain = Matrix::random(1, 5, 2), c = Matrix::random(3, 15, 3);
  const auto forward = [&](const Matrix& input) {
    Matrix y(3, 15);
    ref_->rmsnorm(y, {}, input, {}, gain.values(), 0.1f);
    return y;
  };
  Matrix dx(3, 15, kBefore);
  ref_->rmsnorm_backward(dx, c, x, gain.values(), 0.1f);
  expect_gradient(forward, x, c, minus_before(dx), "rmsnorm of heads");
}

TEST_F(Gradient, Softcap) {
  const Matrix x = Matrix::random(3, 13, 1, 4.0f), c = Matrix::random(3, 13, 3);
  const auto forward = [&](const Matrix& input) {
    Matrix y = input;
    ref_->softcap(y, 2.5f);
    return y;
  };
  Matrix dx = c;
  ref_->softcap_backward(dx, forward(x), 2.5f);
  expect_gradient(forward, x, c, dx, "softcap");
}

TEST_F(Gradient, Rope) {
  constexpr int kHead = 6;
  Matrix table(20, kHead);
  for (int64_t p = 0; p < 20; ++p) {
    for (int64_t i = 0; i < kHead / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(100.0, -static_cast<double>(i) / 3.0);
      table.at(p, i) = static_cast<float>(std::cos(angle));
      table.at(p, i + kHead / 2) = static_cast<float>(std::sin(angle));
    }
  }
  const std::vector<int32_t> positions = {0, 5, 19};
  const Matrix q = Matrix::random(3, 2 * kHead, 1), k = Matrix::random(3, kHead, 2);
  const Matrix cq = Matrix::random(3, 2 * kHead, 3), ck = Matrix::random(3, kHead, 4);
  const auto of_q = [&](Matrix m) {
    Matrix other = k;
    ref_->rope(m, other, kHead, positions, table);
    return m;
  };
  const auto of_k = [&](Matrix m) {
    Matrix other = q;
    ref_->rope(other, m, kHead, positions, table);
    return m;
  };
  Matrix dq = cq, dk = ck;
  ref_->rope_backward(dq, dk, kHead, positions, table);
  expect_gradient(of_q, q, cq, dq, "rope q");
  expect_gradient(of_k, k, ck, dk, "rope k");
}

TEST_F(Gradient, Glu) {
  const Matrix gate_up = Matrix::random(4, 14, 1, 2.0f), c = Matrix::random(4, 7, 2);
  for (const GluActivation activation : {GluActivation::kSilu, GluActivation::kGeluTanh}) {
    const auto forward = [&](const Matrix& input) {
      Matrix y(4, 7);
      ref_->glu(y, input, activation);
      return y;
    };
    Matrix d(4, 14, 9.0f);
    ref_->glu_backward(d, c, gate_up, activation);
    expect_gradient(forward, gate_up, c, d, "glu");
    Matrix in_place = gate_up;
    ref_->glu_backward(in_place, c, in_place, activation);
    expect_same_bits(d, in_place, "glu in place");
  }
}

TEST_F(Gradient, CrossEntropy) {
  const Matrix logits = Matrix::random(3, 11, 1, 2.0f);
  const std::vector<int32_t> targets = {0, 10, 4};
  const std::vector<float> weights = {1.0f, 0.0f, 0.25f};
  const auto forward = [&](Matrix m) {
    Matrix loss(1, 3);
    ref_->cross_entropy(loss.values(), m, targets, weights);
    return loss;
  };
  Matrix c(1, 3);
  c.values() = weights;
  Matrix gradient = logits;
  Matrix loss(1, 3);
  ref_->cross_entropy(loss.values(), gradient, targets, weights);
  expect_gradient(forward, logits, c, gradient, "cross_entropy");
  for (size_t m = 0; m < 3; ++m) {  // and the loss is what it says
    double total = 0.0;
    for (int64_t v = 0; v < 11; ++v) total += std::exp(double{logits.at(static_cast<int64_t>(m), v)});
    const double target = logits.at(static_cast<int64_t>(m), targets[m]);
    EXPECT_NEAR(loss.values()[m], std::log(total) - target, 1e-5);
  }
}

TEST_F(Gradient, EmbedAndGather) {
  const Matrix table = Matrix::random(6, 5, 1), c = Matrix::random(4, 5, 2);
  const std::vector<int32_t> ids = {5, 2, 5, 0};
  const auto embed = [&](const Matrix& w) {
    Matrix y(4, 5);
    ref_->embed(y, *pack(w), ids);
    return y;
  };
  Matrix dw(6, 5, kBefore);
  ref_->embed_backward(dw, c, ids);
  expect_gradient(embed, table, c, minus_before(dw), "embed");

  const std::vector<int32_t> rows = {3, 0, 5, 1};
  const auto gather = [&](const Matrix& x) {
    Matrix y(4, 5);
    ref_->gather_rows(y, x, rows);
    return y;
  };
  Matrix dx(6, 5);
  ref_->scatter_rows(dx, c, rows);
  expect_gradient(gather, table, c, dx, "gather_rows");
}

TEST_F(Gradient, DropoutIsItsOwnBackward) {
  const Matrix x = Matrix::random(4, 9, 1), c = Matrix::random(4, 9, 2);
  std::vector<uint64_t> keys(4);
  std::iota(keys.begin(), keys.end(), 77);
  const auto forward = [&](const Matrix& input) {
    Matrix y(4, 9);
    ref_->dropout(y, input, 0.4f, {keys, 3}, false);
    return y;
  };
  Matrix dx(4, 9, kBefore);
  ref_->dropout(dx, c, 0.4f, {keys, 3}, true);
  expect_gradient(forward, x, c, minus_before(dx), "dropout");
}

TEST_F(Gradient, ScaleColumnsBothFactors) {
  const Matrix x = Matrix::random(4, 9, 1), gain = Matrix::random(1, 9, 2), c = Matrix::random(4, 9, 3);
  const auto scaled = [&](Matrix y, const Matrix& by) {
    ref_->scale_columns(y, by.values());
    return y;
  };
  Matrix dgain(1, 9, kBefore);
  ref_->column_dots(dgain.values(), c, x);
  expect_gradient([&](const Matrix& m) { return scaled(x, m); }, gain, c, minus_before(dgain), "gain");
  expect_gradient([&](const Matrix& m) { return scaled(m, gain); }, x, c, scaled(c, gain), "scaled");
}

// --- attention
// --------------------------------------------------------------------------------------------------

struct AttentionCase {
  const char* name;
  int heads, kv_heads, head_dim;
  std::vector<int> lengths;
  AttentionParams params;
};

class AttentionForward {
 public:
  AttentionForward(TrainingBackend& ref, const AttentionCase& c) : ref_(ref), case_(c) {
    int32_t page = 0;
    for (const int length : c.lengths) {
      std::vector<int32_t>& pages = pages_.emplace_back();
      for (int at = 0; at < length; at += kKvPageSize) pages.push_back(page++);
    }
    int row = 0;
    for (size_t i = 0; i < c.lengths.size(); ++i) {
      spans_.push_back({row, c.lengths[i], 0, pages_[i]});
      row += c.lengths[i];
    }
    rows_ = row;
    page_count_ = page;
  }

  Matrix run(const Matrix& q, const Matrix& k, const Matrix& v, Matrix* lse = nullptr) {
    const auto cache = ref_.make_kv_cache({1, page_count_, case_.kv_heads, case_.head_dim, DType::kF32});
    ref_.kv_write(*cache, 0, k, v, spans_);
    Matrix o(rows_, case_.heads * case_.head_dim);
    ref_.attention(o, lse != nullptr ? lse->view() : Mat(), q, *cache, 0, spans_, case_.params);
    return o;
  }

  int64_t rows() const { return rows_; }
  const std::vector<SequenceSpan>& spans() const { return spans_; }

 private:
  TrainingBackend& ref_;
  const AttentionCase& case_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<SequenceSpan> spans_;
  int64_t rows_ = 0;
  int page_count_ = 0;
};

TEST_F(Gradient, Attention) {
  const AttentionCase cases[] = {
      {"one head", 1, 1, 4, {6}, {.scale = 0.7f}},
      {"grouped queries", 4, 2, 4, {5}, {.scale = 0.5f}},
      {"two sequences", 2, 1, 6, {3, 4}, {.scale = 0.4f}},
      {"window", 2, 2, 4, {8}, {.scale = 0.5f, .window = 3}},
      {"softcap", 2, 1, 4, {6}, {.scale = 1.0f, .softcap = 2.0f}},
      {"everything, more than a page", 2, 1, 4, {19}, {.scale = 0.8f, .window = 7, .softcap = 3.0f}},
  };
  for (const AttentionCase& c : cases) {
    AttentionForward forward(*ref_, c);
    const int64_t rows = forward.rows(), width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
    const Matrix q = Matrix::random(rows, width, 1), k = Matrix::random(rows, kv_width, 2),
                 v = Matrix::random(rows, kv_width, 3), d_o = Matrix::random(rows, width, 4);
    Matrix lse(rows, c.heads);
    const Matrix o = forward.run(q, k, v, &lse);
    Matrix dq(rows, width, 9.0f), dk(rows, kv_width, 9.0f), dv(rows, kv_width, 9.0f);
    ref_->attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, c.head_dim, forward.spans(), c.params,
                             DType::kF32);
    const std::string name = c.name;
    expect_gradient([&](const Matrix& m) { return forward.run(m, k, v); }, q, d_o, dq, name + ": dq");
    expect_gradient([&](const Matrix& m) { return forward.run(q, m, v); }, k, d_o, dk, name + ": dk");
    expect_gradient([&](const Matrix& m) { return forward.run(q, k, m); }, v, d_o, dv, name + ": dv");
  }
}

}  // namespace
}  // namespace polylora
