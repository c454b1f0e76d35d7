// The training ops of every kernel set against ref, over remainders and strides, bit-identical for 1 and 2
// threads.
#include <limits>
#include <numeric>

#include "ops_testing.h"

namespace polylora {
namespace {

/// A matrix that is a column range of a wider one: ops must respect strides and leave the rest alone.
class Strided {
 public:
  Strided(int64_t rows, int64_t cols, uint64_t seed, float scale = 1.0f)
      : wide_(Matrix::random(rows, cols + 7, seed, scale)), cols_(cols) {}

  Mat view() { return wide_.view().columns(3, cols_); }
  ConstMat view() const { return wide_.view().columns(3, cols_); }
  const Matrix& all() const { return wide_; }

 private:
  Matrix wide_;
  int64_t cols_;
};

/// Everything that an op wrote, as one matrix.
Matrix joined(const std::vector<const Matrix*>& parts) {
  Matrix all(1, 0);
  for (const Matrix* part : parts)
    all.values().insert(all.values().end(), part->values().begin(), part->values().end());
  Matrix shaped(1, static_cast<int64_t>(all.values().size()));
  shaped.values() = all.values();
  return shaped;
}

std::string shape_name(const char* op, int64_t a, int64_t b, int64_t c = 0) {
  return std::string(op) + " " + std::to_string(a) + " " + std::to_string(b) + " " + std::to_string(c);
}

// --- linear_dx
// --------------------------------------------------------------------------------------------------

struct Format {
  WeightFormat format;
  DType dtype;
  int64_t k_step;
};
constexpr Format kFormats[] = {
    {WeightFormat::kF32, DType::kF32, 1},  {WeightFormat::kBf16, DType::kBf16, 1},
    {WeightFormat::kBf16, DType::kF32, 1}, {WeightFormat::kQ8, DType::kQ8_0, 32},
    {WeightFormat::kQ8, DType::kQ4_1, 32}, {WeightFormat::kQ4, DType::kQ4_0, 32},
    {WeightFormat::kQ4, DType::kQ4_1, 32},
};

void compare_dx(const Format& format, int64_t t, int64_t n, int64_t k, bool accumulate) {
  const StoredRows stored(format.dtype, n, k, static_cast<uint64_t>(7 * n + k));
  const Strided dy(t, n, 21);
  const auto run = [&](TrainingBackend& b) {
    const auto weight = b.pack_weight(source_of(stored, k), format.format);
    Strided dx(t, k, 22);
    b.linear_dx(dx.view(), dy.view(), *weight, accumulate);
    return dx.all();
  };
  compare_all(run, 2e-5, shape_name(weight_format_name(format.format).data(), t, n, k));
}

TEST(LinearDx, MatchesRefOverAllRemainders) {
  for (const Format& format : kFormats) {
    for (int64_t n = 1; n <= 40; n += n < 18 ? 1 : 5)
      compare_dx(format, n % 5 + 1, n, 32 * (1 + n % 3), n % 2 == 0);
    for (int64_t k = format.k_step; k <= 70; k += format.k_step) compare_dx(format, 3, 19, k, k % 2 == 0);
    for (int64_t t = 1; t <= 70; t += t < 18 ? 1 : 13) compare_dx(format, t, 33, 64, t % 2 == 0);
  }
}

TEST(LinearDx, LongSumsAreCutWhereTheyShould) {
  for (const Format& format : kFormats) {
    compare_dx(format, 3, 2047, 32, false);
    compare_dx(format, 2, 2049, 32, true);
    compare_dx(format, 2, 8192 + 17, 64, true);
  }
}

TEST(LinearDx, ARowDoesNotDependOnTheOthersOrTheThreads) {
  constexpr int64_t kRows = 1100, kN = 48, kK = 64;  // more rows than are narrowed at a time
  const Matrix dy = Matrix::random(kRows, kN, 23);
  for (const Format& format : kFormats) {
    const StoredRows stored(format.dtype, kN, kK, 24);
    for (const std::string_view isa : available_isas()) {
      const auto one = make_cpu_backend(isa, 1);
      const auto weight = one->pack_weight(source_of(stored, kK), format.format);
      Matrix alone(kRows, kK);
      for (int64_t r = 0; r < kRows; ++r) one->linear_dx(alone.rows(r, 1), dy.rows(r, 1), *weight, false);
      for (int threads = 1; threads <= 3; ++threads) {
        const auto backend = make_cpu_backend(isa, threads);
        const auto packed = backend->pack_weight(source_of(stored, kK), format.format);
        Matrix together(kRows, kK);
        backend->linear_dx(together, dy, *packed, false);
        expect_same_bits(alone, together, backend->description());
      }
    }
  }
}

// --- lora_backward, linear_dw
// ------------------------------------------------------------------------------------

struct PairShape {
  int64_t n_begin, n_count, rank;
};

Matrix run_lora_backward(TrainingBackend& b, int64_t t, int64_t k, int64_t n,
                         const std::vector<PairShape>& shapes, DType dtype, bool with_dx) {
  const Strided x(t, k, 31), dy(t, n, 32);
  Strided dx(t, k, 33);
  std::vector<Strided> factors;
  for (const PairShape& shape : shapes) {
    const auto seed = static_cast<uint64_t>(factors.size());
    factors.emplace_back(shape.rank, k, 40 + seed, 0.3f);
    factors.emplace_back(shape.n_count, shape.rank, 50 + seed, 0.3f);
    factors.emplace_back(shape.rank, k, 60 + seed);
    factors.emplace_back(shape.n_count, shape.rank, 70 + seed);
  }
  std::vector<LoraGradient> pairs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    Strided* f = &factors[4 * i];
    pairs.push_back({shapes[i].n_begin, shapes[i].n_count, 0.5f + static_cast<float>(i), f[0].view(),
                     f[1].view(), f[2].view(), f[3].view()});
  }
  b.lora_backward(with_dx ? dx.view() : Mat(), dy.view(), x.view(), pairs, dtype);
  std::vector<const Matrix*> parts = {&dx.all()};
  for (const Strided& factor : factors) parts.push_back(&factor.all());
  return joined(parts);
}

void compare_lora(int64_t t, int64_t k, int64_t n, const std::vector<PairShape>& shapes,
                  bool with_dx = true) {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    // bf16: h and dh may round to the neighbour of what ref has.
    compare_all([&](TrainingBackend& b) { return run_lora_backward(b, t, k, n, shapes, dtype, with_dx); },
                dtype == DType::kF32 ? 1e-5 : 4e-3, shape_name("lora_backward", t, k, n));
  }
}

TEST(LoraBackward, MatchesRefOverAllRemainders) {
  for (int64_t t = 1; t <= 70; t += t < 36 ? 1 : 9) compare_lora(t, 40, 50, {{0, 20, 4}, {20, 30, 4}});
  for (int64_t rank = 1; rank <= 36; rank += rank < 18 ? 1 : 6)
    compare_lora(5, 33, 30, {{1, 17, rank}, {18, 11, 36 - rank + 1}});
  for (int64_t k = 1; k <= 50; ++k) compare_lora(4, k, k + 3, {{2, k, 3}});
}

TEST(LoraBackward, RangesWithGapsAndWithoutDx) {
  compare_lora(37, 64, 150, {{0, 64, 16}, {107, 40, 5}, {70, 3, 1}}, false);
  compare_lora(37, 64, 150, {{0, 64, 16}, {107, 40, 5}, {70, 3, 1}}, true);
}

TEST(LoraBackward, MoreRowsThanAChunkAndMoreColumnsThanAnItem) {
  compare_lora(1043, 200, 333, {{0, 300, 8}, {300, 33, 24}});
}

TEST(LinearDw, MatchesRefOverAllRemainders) {
  const auto compare = [](int64_t t, int64_t n, int64_t k) {
    const Strided dy(t, n, 81), x(t, k, 82);
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      const auto run = [&](TrainingBackend& b) {
        Strided dw(n, k, 83);
        b.linear_dw(dw.view(), dy.view(), x.view(), dtype);
        return dw.all();
      };
      compare_all(run, 1e-5, shape_name("linear_dw", t, n, k));
    }
  };
  for (int64_t t = 1; t <= 70; t += t < 34 ? 1 : 11) compare(t, 21, 35);
  for (int64_t n = 1; n <= 70; n += n < 18 ? 1 : 7) compare(7, n, 71 - n);
  compare(1030, 70, 40);
}

// --- rows and columns
// ---------------------------------------------------------------------------------------------

constexpr int64_t kWidths[] = {1, 2, 15, 16, 17, 33, 64, 130, 576, 1537};

TEST(TrainingOps, RmsnormBackward) {
  for (const int64_t d : kWidths) {
    const Strided dy(9, d, 1), x(9, d, 2);
    const Matrix gain = Matrix::random(1, d, 3);
    const auto run = [&](TrainingBackend& b) {
      Strided dx(9, d, 4);
      b.rmsnorm_backward(dx.view(), dy.view(), x.view(), gain.values(), 1e-5f);
      return dx.all();
    };
    compare_all(run, 1e-5, shape_name("rmsnorm_backward", d, 0));
  }
}

TEST(TrainingOps, RmsnormBackwardOfHeads) {
  for (const int64_t head_dim : {1, 15, 16, 17, 64, 128}) {
    const Strided dy(9, 3 * head_dim, 1), x(9, 3 * head_dim, 2);
    const Matrix gain = Matrix::random(1, head_dim, 3);
    const auto run = [&](TrainingBackend& b) {
      Strided dx(9, 3 * head_dim, 4);
      b.rmsnorm_backward(dx.view(), dy.view(), x.view(), gain.values(), 1e-5f);
      return dx.all();
    };
    compare_all(run, 1e-5, shape_name("rmsnorm_backward of heads", head_dim, 0));
  }
}

TEST(TrainingOps, SoftcapBackward) {
  for (const int64_t n : kWidths) {
    const Strided y(9, n, 2, 8.0f);
    const auto run = [&](TrainingBackend& b) {
      Strided dy(9, n, 1);
      b.softcap_backward(dy.view(), y.view(), 8.5f);
      return dy.all();
    };
    compare_all(run, 1e-6, shape_name("softcap_backward", n, 0));
  }
}

TEST(TrainingOps, RopeBackward) {
  for (const int head_dim : {2, 6, 12, 32, 64, 96}) {
    const Matrix table = Matrix::random(50, head_dim, 4);
    const std::vector<int32_t> positions = {0, 49, 3, 3, 17};
    const auto run = [&](TrainingBackend& b) {
      Strided q(5, head_dim * 4, 5), k(5, head_dim * 2, 6);
      b.rope_backward(q.view(), k.view(), head_dim, positions, table);
      return joined({&q.all(), &k.all()});
    };
    compare_all(run, 1e-6, "rope_backward");
  }
}

TEST(TrainingOps, GluBackwardInPlaceToo) {
  for (const int64_t f : kWidths) {
    for (const GluActivation activation : {GluActivation::kSilu, GluActivation::kGeluTanh}) {
      for (const float scale : {0.1f, 3.0f, 100.0f}) {
        const Strided gate_up(5, 2 * f, 7, scale), dy(5, f, 8);
        const auto apart = [&](TrainingBackend& b) {
          Strided out(5, 2 * f, 9);
          b.glu_backward(out.view(), dy.view(), gate_up.view(), activation);
          return out.all();
        };
        const auto in_place = [&](TrainingBackend& b) {
          Strided out = gate_up;
          b.glu_backward(out.view(), dy.view(), out.view(), activation);
          return out.all();
        };
        compare_all(apart, 3e-6, shape_name("glu_backward", f, 0));
        compare_all(in_place, 3e-6, shape_name("glu_backward in place", f, 0));
      }
    }
  }
}

TEST(TrainingOps, CrossEntropy) {
  for (const int64_t v : {1, 2, 15, 17, 511, 512, 513, 5000, 49152, 140001}) {
    for (const float scale : {0.1f, 3.0f, 60.0f}) {
      const std::vector<int32_t> targets = {0, static_cast<int32_t>(v - 1), static_cast<int32_t>(v / 2)};
      const std::vector<float> weights = {1.0f, 0.0f, 0.25f};
      const auto run = [&](TrainingBackend& b) {
        Strided logits(3, v, 11, scale);
        Matrix loss(1, 3);
        b.cross_entropy(loss.values(), logits.view(), targets, weights);
        // The gradient's own size is at most 1: compared apart from the loss and the untouched columns.
        Matrix gradient(3, v);
        b.add(gradient, logits.view());
        return joined({&gradient});
      };
      const auto run_loss = [&](TrainingBackend& b) {
        Strided logits(3, v, 11, scale);
        Matrix loss(1, 3);
        b.cross_entropy(loss.values(), logits.view(), targets, weights);
        return loss;
      };
      compare_all(run, 3e-6, shape_name("cross_entropy", v, 0));
      compare_all(run_loss, 3e-6, shape_name("cross_entropy loss", v, 0));
    }
  }
}

TEST(TrainingOps, CrossEntropyOfMaskedAndRisingLogits) {
  constexpr int64_t kV = 3000;
  Matrix logits(1, kV);
  for (int64_t i = 0; i < kV; ++i)
    logits.at(0, i) = i < 700 ? -std::numeric_limits<float>::infinity() : 0.05f * static_cast<float>(i);
  const auto run = [&](TrainingBackend& b) {
    Matrix row = logits;
    Matrix loss(1, 1);
    b.cross_entropy(loss.values(), row, std::vector<int32_t>{2990}, std::vector<float>{1.0f});
    return joined({&row, &loss});
  };
  compare_all(run, 3e-6, "cross_entropy rising");
}

TEST(TrainingOps, ScaleColumnsAndColumnDots) {
  for (const int64_t n : kWidths) {
    const Matrix gain = Matrix::random(1, n, 12), shift = Matrix::random(1, n, 19);
    const Strided a(23, n, 13), c(23, n, 14);
    const auto scale = [&](TrainingBackend& b) {
      Strided y(23, n, 15);
      b.scale_columns(y.view(), gain.values());
      b.scale_columns(y.view(), gain.values(), shift.values());
      return y.all();
    };
    const auto dots = [&](TrainingBackend& b) {
      Matrix out = Matrix::random(1, n, 16);
      b.column_dots(out.values(), a.view(), c.view());
      return out;
    };
    compare_all(scale, 0.0, shape_name("scale_columns", n, 0));
    compare_all(dots, 1e-6, shape_name("column_dots", n, 0));
  }
}

TEST(TrainingOps, ScatterUndoesGather) {
  const std::vector<int32_t> rows = {8, 0, 3};
  for (const int64_t d : kWidths) {
    const auto run = [&](TrainingBackend& b) {
      Strided y(9, d, 17);
      const Strided x(3, d, 18);
      b.scatter_rows(y.view(), x.view(), rows);
      Matrix back(3, d);
      b.gather_rows(back, y.view(), rows);
      expect_same_bits(x.view(), back, "gathered again");
      return y.all();
    };
    compare_all(run, 0.0, shape_name("scatter_rows", d, 0));
  }
}

TEST(TrainingOps, EmbedBackwardAddsRepeatedIds) {
  const std::vector<int32_t> ids = {4, 0, 4, 19, 4, 0};
  for (const int64_t d : kWidths) {
    const Strided dy(6, d, 19);
    const auto run = [&](TrainingBackend& b) {
      Strided dw(20, d, 20);
      b.embed_backward(dw.view(), dy.view(), ids);
      return dw.all();
    };
    compare_all(run, 0.0, shape_name("embed_backward", d, 0));
  }
}

TEST(TrainingOps, DropoutAndNoiseFollowTheirKeysOnly) {
  std::vector<uint64_t> keys(40);
  std::iota(keys.begin(), keys.end(), 1000);
  for (const int64_t d : kWidths) {
    const Strided x(40, d, 25);
    for (const bool accumulate : {false, true}) {
      const auto run = [&](TrainingBackend& b) {
        Strided y(40, d, 26);
        b.dropout(y.view(), x.view(), 0.3f, {keys, 5}, accumulate);
        return y.all();
      };
      compare_all(run, 0.0, shape_name("dropout", d, accumulate));
    }
    const std::vector<float> scale(40, 0.2f);
    const auto noise = [&](TrainingBackend& b) {
      Strided y(40, d, 27);
      b.add_noise(y.view(), scale, {keys, 6});
      return y.all();
    };
    compare_all(noise, 0.0, shape_name("add_noise", d, 0));
  }
}

TEST(TrainingOps, DropoutDropsItsShareAndKeepsTheMean) {
  constexpr int64_t kRows = 100, kWidth = 1000;
  std::vector<uint64_t> keys(kRows);
  std::iota(keys.begin(), keys.end(), 7);
  const Matrix x(kRows, kWidth, 1.0f);
  for (const auto& backend : cpu_backends(2)) {
    Matrix y(kRows, kWidth);
    backend->dropout(y, x, 0.25f, {keys, 1}, false);
    int64_t dropped = 0;
    double sum = 0.0;
    for (const float value : y.values()) {
      dropped += value == 0.0f;
      sum += double{value};
      ASSERT_TRUE(value == 0.0f || value == 1.0f / 0.75f);
    }
    EXPECT_NEAR(static_cast<double>(dropped) / (kRows * kWidth), 0.25, 0.006);  // four sigma
    EXPECT_NEAR(sum / (kRows * kWidth), 1.0, 0.008);
    Matrix in_place = x;
    backend->dropout(in_place, in_place, 0.25f, {keys, 1}, false);
    expect_same_bits(y, in_place, "in place");
    Matrix other_stream(kRows, kWidth);
    backend->dropout(other_stream, x, 0.25f, {keys, 2}, false);
    EXPECT_NE(y.values(), other_stream.values());
  }
}

// --- optimizer and merge
// ----------------------------------------------------------------------------------------

TEST(Adamw, MatchesRefOverSteps) {
  for (const int64_t n : {1, 16, 4095, 4097, 70001}) {
    const auto run = [&](TrainingBackend& b) {
      Matrix p = Matrix::random(1, n, 91), m(1, n), v(1, n);
      for (int64_t step = 1; step <= 3; ++step) {
        const Matrix g = Matrix::random(1, n, 92 + static_cast<uint64_t>(step), 0.01f);
        b.adamw(p.values(), m.values(), v.values(), g.values(),
                {.learning_rate = 1e-2f, .weight_decay = 0.1f, .step = step, .gradient_scale = 0.5f});
      }
      return joined({&p, &m, &v});
    };
    compare_all(run, 2e-6, shape_name("adamw", n, 0));
  }
}

TEST(Adamw, HandComputedUpdate) {
  auto backends = cpu_backends(1);
  backends.push_back(make_ref_backend());
  for (const auto& backend : backends) {
    std::vector<float> p = {1.0f, -2.0f}, m = {0.0f, 0.1f}, v = {0.0f, 0.04f};
    const std::vector<float> g = {4.0f, -1.0f};
    // Gradients are halved first: 2 and -0.5. beta1 0.5, beta2 0.75, step 2: corrections 0.75 and 0.4375.
    //   m = 1, -0.2;  v = 1, 0.0925;  p *= 1 - 0.1 * 0.5 = 0.95
    //   p -= 0.1/0.75 * m / (sqrt(v/0.4375) + 1e-3)
    backend->adamw(p, m, v, g,
                   {.learning_rate = 0.1f,
                    .beta1 = 0.5f,
                    .beta2 = 0.75f,
                    .epsilon = 1e-3f,
                    .weight_decay = 0.5f,
                    .step = 2,
                    .gradient_scale = 0.5f});
    EXPECT_NEAR(m[0], 1.0, 1e-6) << backend->description();
    EXPECT_NEAR(m[1], -0.2, 1e-6);
    EXPECT_NEAR(v[0], 1.0, 1e-6);
    EXPECT_NEAR(v[1], 0.0925, 1e-7);
    EXPECT_NEAR(p[0], 0.95 - 0.0881333, 1e-5);
    EXPECT_NEAR(p[1], -1.9 + 0.0578678, 1e-5);
  }
}

TEST(SumSquares, IsTheSameForEveryNumberOfThreads) {
  for (const int64_t n : {0, 1, 17, 4096, 4097, 100003}) {
    const Matrix x = Matrix::random(1, n, 95);
    const double expected = make_ref_backend()->sum_squares(x.values());
    for (const std::string_view isa : available_isas()) {
      const double one = make_cpu_backend(isa, 1)->sum_squares(x.values());
      EXPECT_NEAR(one, expected, 1e-6 * expected) << isa << " " << n;
      for (int threads = 2; threads <= 4; ++threads)
        EXPECT_EQ(one, make_cpu_backend(isa, threads)->sum_squares(x.values())) << isa << " " << n;
    }
  }
}

TEST(LoraMerge, IsRefBitForBit) {
  for (int64_t rank = 1; rank <= 33; rank += rank < 9 ? 1 : 8) {
    for (const int64_t k : {1, 15, 16, 63, 64, 65, 130, 576}) {
      const Strided a(rank, k, 96), b(37, rank, 97);
      Strided expected(37, k, 98);
      make_ref_backend()->lora_merge(expected.view(), a.view(), b.view(), 0.3f);
      for (const std::string_view isa : available_isas()) {
        for (int threads = 1; threads <= 2; ++threads) {
          Strided w(37, k, 98);
          make_cpu_backend(isa, threads)->lora_merge(w.view(), a.view(), b.view(), 0.3f);
          expect_same_bits(expected.all(), w.all(), std::string(isa) + shape_name(" lora_merge", rank, k));
        }
      }
    }
  }
}

}  // namespace
}  // namespace polylora
