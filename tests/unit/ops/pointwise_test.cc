#include "ops_testing.h"

namespace polylora {
namespace {

TEST(Pointwise, Rmsnorm) {
  for (const int64_t d : {1, 2, 15, 16, 17, 33, 64, 176, 576, 2048}) {
    const Matrix x = Matrix::random(9, d, 1);
    const Matrix delta = Matrix::random(9, d, 2);
    const Matrix gain = Matrix::random(1, d, 3);
    const std::string what = "rmsnorm " + std::to_string(d);
    const auto plain = [&](Backend& b) {
      Matrix y(9, d);
      b.rmsnorm(y, {}, x, {}, gain.values(), 1e-5f);
      return y;
    };
    const auto with_sum = [&](Backend& b, bool return_sum) {
      Matrix y(9, d);
      Matrix sum = x;  // sum may alias x
      b.rmsnorm(y, sum, sum, delta, gain.values(), 1e-5f);
      return return_sum ? sum : y;
    };
    compare_all(plain, 1e-5, what);
    compare_all([&](Backend& b) { return with_sum(b, false); }, 1e-5, what);
    compare_all([&](Backend& b) { return with_sum(b, true); }, 0.0, what);
  }
}

TEST(Pointwise, RmsnormOfHeadsInPlace) {
  for (const int64_t head_dim : {1, 15, 16, 17, 64, 128}) {
    const Matrix gain = Matrix::random(1, head_dim, 3);
    const auto run = [&](Backend& b) {
      Matrix y = Matrix::random(7, 3 * head_dim, 1);
      b.rmsnorm(y, {}, y, {}, gain.values(), 1e-5f);
      return y;
    };
    compare_all(run, 1e-5, "rmsnorm of heads of " + std::to_string(head_dim));
    const auto backend = make_backend({.name = "ref"});
    const Matrix all = run(*backend);
    const Matrix whole = Matrix::random(7, 3 * head_dim, 1);
    for (int64_t head = 0; head < 3; ++head) {  // each as if it were alone
      Matrix one(7, head_dim);
      backend->rmsnorm(one, {}, ConstMat(whole).columns(head * head_dim, head_dim), {}, gain.values(), 1e-5f);
      for (int64_t t = 0; t < 7; ++t) {
        for (int64_t e = 0; e < head_dim; ++e)
          EXPECT_EQ(ConstMat(one).row(t)[e], ConstMat(all).row(t)[head * head_dim + e]);
      }
    }
  }
}

TEST(Pointwise, Softcap) {
  for (const int64_t n : {1, 15, 16, 17, 384, 9000}) {
    for (const float scale : {1.0f, 10.0f, 1000.0f}) {
      const auto run = [&](Backend& b) {
        Matrix y = Matrix::random(5, n, 11, scale);
        b.softcap(y, 30.0f);
        return y;
      };
      compare_all(run, 1e-5, "softcap " + std::to_string(n));  // tanh is good to 1e-7 of the cap
    }
  }
}

TEST(Pointwise, Rope) {
  for (const int head_dim : {2, 6, 12, 16, 32, 64, 96, 128}) {
    const Matrix table = Matrix::random(50, head_dim, 4);
    const std::vector<int32_t> positions = {0, 49, 3, 3, 17};
    const auto rotate = [&](Backend& b, bool return_q) {
      Matrix q = Matrix::random(5, head_dim * 4, 5);
      Matrix k = Matrix::random(5, head_dim * 2, 6);
      b.rope(q, k, head_dim, positions, table);
      return return_q ? q : k;
    };
    compare_all([&](Backend& b) { return rotate(b, true); }, 1e-6, "rope q");
    compare_all([&](Backend& b) { return rotate(b, false); }, 1e-6, "rope k");
  }
}

TEST(Pointwise, Glu) {
  for (const int64_t f : {1, 15, 16, 17, 176, 1536, 1537}) {
    for (const GluActivation activation : {GluActivation::kSilu, GluActivation::kGeluTanh}) {
      for (const float scale : {0.1f, 3.0f, 100.0f}) {
        const Matrix gate_up = Matrix::random(5, 2 * f, 7, scale);
        const auto run = [&](Backend& b) {
          Matrix y(5, f);
          b.glu(y, gate_up, activation);
          return y;
        };
        compare_all(run, 1e-6, "glu " + std::to_string(f));
      }
    }
  }
}

TEST(Pointwise, AddAndGather) {
  for (const int64_t d : {1, 17, 576, 2048}) {
    const Matrix x = Matrix::random(9, d, 8);
    const std::vector<int32_t> rows = {8, 0, 3, 3};
    const auto run = [&](Backend& b) {
      Matrix y = Matrix::random(9, d, 9);
      b.add(y, x);
      Matrix gathered(4, d);
      b.gather_rows(gathered, y, rows);
      return gathered;
    };
    compare_all(run, 0.0, "add, gather " + std::to_string(d));
  }
}

TEST(Pointwise, EmbedReadsRowsOfEveryFormat) {
  for (const int64_t k : {32, 96, 576}) {
    for (const auto& [format, dtype] :
         {std::pair{WeightFormat::kF32, DType::kF16}, std::pair{WeightFormat::kBf16, DType::kF32},
          std::pair{WeightFormat::kQ8, DType::kQ8_0}, std::pair{WeightFormat::kQ4, DType::kF32}}) {
      const StoredRows stored(dtype, 37, k, 10);
      const std::vector<int32_t> ids = {36, 0, 15, 16, 36};
      const auto run = [&](Backend& b) {
        const auto weight = b.pack_weight(source_of(stored, k), format);
        Matrix y(5, k);
        b.embed(y, *weight, ids);
        return y;
      };
      compare_all(run, 0.0, "embed");
    }
  }
}

TEST(Pointwise, ColumnRangesOfAWiderMatrix) {
  const Matrix wide = Matrix::random(6, 100, 11);
  const Matrix gain = Matrix::random(1, 40, 12);
  const auto run = [&](Backend& b) {
    Matrix y(6, 100, 7.0f);
    b.rmsnorm(y.view().columns(10, 40), {}, wide.view().columns(30, 40), {}, gain.values(), 1e-6f);
    return y;
  };
  compare_all(run, 1e-5, "strided rmsnorm");
}

TEST(Shapes, AreChecked) {
  const auto cpu = make_backend({.name = "cpu", .threads = 1});
  Matrix y(2, 3);
  const Matrix x(2, 4);
  EXPECT_THROW(cpu->add(y, x), Error);
  EXPECT_THROW(cpu->gather_rows(y, Matrix(2, 3), std::vector<int32_t>{0, 2}), Error);
}

}  // namespace
}  // namespace polylora
