#include "ops_testing.h"

namespace polylora {
namespace {

struct FormatCase {
  const char* name;
  WeightFormat format;
  DType dtype;
  double tolerance;  // relative to the largest output
  int64_t k_step;
};

constexpr FormatCase kFormats[] = {
    {"f32", WeightFormat::kF32, DType::kF32, 1e-5, 1},
    {"f16 as f32", WeightFormat::kF32, DType::kF16, 1e-5, 1},
    {"bf16", WeightFormat::kBf16, DType::kBf16, 1e-5, 1},
    {"f32 as bf16", WeightFormat::kBf16, DType::kF32, 1e-5, 1},
    {"Q8_0 as q8", WeightFormat::kQ8, DType::kQ8_0, 1e-5, 32},
    {"Q4_0 as q8", WeightFormat::kQ8, DType::kQ4_0, 1e-5, 32},
    {"Q4_1 as q8", WeightFormat::kQ8, DType::kQ4_1, 1e-5, 32},
    {"bf16 as q8", WeightFormat::kQ8, DType::kBf16, 1e-5, 32},
    {"Q4_0 as q4", WeightFormat::kQ4, DType::kQ4_0, 1e-5, 32},
    {"Q4_1 as q4", WeightFormat::kQ4, DType::kQ4_1, 1e-5, 32},
    {"Q8_0 as q4", WeightFormat::kQ4, DType::kQ8_0, 1e-5, 32},
    {"f32 as q4", WeightFormat::kQ4, DType::kF32, 1e-5, 32},
};

void compare_linear(Backend& cpu, Backend& ref, const FormatCase& c, int64_t m, int64_t n, int64_t k,
                    bool with_bias) {
  const StoredRows stored(c.dtype, n, k, static_cast<uint64_t>(n * 131 + k));
  const WeightSource source = source_of(stored, k);
  const auto expected_weight = ref.pack_weight(source, c.format);
  const auto weight = cpu.pack_weight(source, c.format);
  const Matrix x = Matrix::random(m, k, 11);
  const Matrix bias = Matrix::random(1, with_bias ? n : 0, 12);
  Matrix expected(m, n);
  Matrix actual(m, n);
  ref.linear(expected, x, *expected_weight, bias.values());
  cpu.linear(actual, x, *weight, bias.values());
  expect_near(expected, actual, c.tolerance,
              cpu.description() + ", " + c.name + ", M N K " + std::to_string(m) + " " + std::to_string(n) +
                  " " + std::to_string(k));
}

TEST(Linear, MatchesRefOverAllRemainders) {
  const auto ref = make_ref_backend();
  for (const auto& cpu : cpu_backends(2)) {
    for (const FormatCase& c : kFormats) {
      for (int64_t n = 1; n <= 40; ++n)
        compare_linear(*cpu, *ref, c, n % 4 + 1, n, 32 * (1 + n % 3), n % 2 == 0);
      for (int64_t k = c.k_step; k <= 70; k += c.k_step) compare_linear(*cpu, *ref, c, 3, 19, k, false);
      for (int64_t m = 1; m <= 40; ++m) compare_linear(*cpu, *ref, c, m, 33, 64, m % 2 == 0);
      compare_linear(*cpu, *ref, c, 65, 200, 576, true);  // large enough for all threads
    }
  }
}

TEST(Linear, MixedRowDtypesAreHeldExactly) {
  constexpr int64_t kCols = 96;
  const StoredRows q8(DType::kQ8_0, 9, kCols, 1);
  const StoredRows q4_1(DType::kQ4_1, 9, kCols, 2);
  const StoredRows q4_0(DType::kQ4_0, 9, kCols, 3);
  WeightSource all{.cols = kCols, .rows = {}};
  q8.append_to(all);
  q4_1.append_to(all);
  q4_0.append_to(all);
  WeightSource nibbles{.cols = kCols, .rows = {}};
  q4_1.append_to(nibbles);
  q4_0.append_to(nibbles);
  WeightSource symmetric{.cols = kCols, .rows = {}};
  q8.append_to(symmetric);
  q4_0.append_to(symmetric);
  EXPECT_EQ(native_format(all), WeightFormat::kQ8);
  EXPECT_EQ(native_format(nibbles), WeightFormat::kQ4);

  auto backends = cpu_backends(1);
  backends.push_back(make_ref_backend());
  for (const auto& backend : backends) {
    for (const auto& [source, format] :
         {std::pair{all, WeightFormat::kQ8}, std::pair{nibbles, WeightFormat::kQ4},
          std::pair{nibbles, WeightFormat::kQ8}, std::pair{symmetric, WeightFormat::kQ8}}) {
      const auto weight = backend->pack_weight(source, format);
      const auto rows = static_cast<int64_t>(source.rows.size());
      std::vector<int32_t> ids;
      for (int32_t i = 0; i < rows; ++i) ids.push_back(i);
      Matrix actual(rows, kCols);
      backend->embed(actual, *weight, ids);
      Matrix expected(rows, kCols);
      for (int64_t r = 0; r < rows; ++r) {
        const WeightSource::Row& row = source.rows[static_cast<size_t>(r)];
        row.read(kCols, &expected.at(r, 0));
      }
      expect_same_bits(expected, actual,
                       backend->description() + " " + std::string(weight_format_name(format)));
    }
  }
}

TEST(Linear, RowsDoNotDependOnTheBatchOrTheThreads) {
  constexpr int64_t kN = 216;
  constexpr int64_t kK = 192;
  constexpr int64_t kLargest = 70;
  const Matrix x = Matrix::random(kLargest, kK, 21);
  for (const std::string_view isa : available_isas()) {
    for (const FormatCase& c : kFormats) {
      const StoredRows stored(c.dtype, kN, kK, 22);
      const auto one = make_cpu_backend(isa, 1);
      const auto weight = one->pack_weight(source_of(stored, kK), c.format);
      Matrix alone(kLargest, kN);
      for (int64_t m = 0; m < kLargest; ++m) one->linear(alone.rows(m, 1), x.rows(m, 1), *weight, {});
      for (int threads = 1; threads <= 3; ++threads) {
        const auto backend = make_cpu_backend(isa, threads);
        for (int64_t m = 1; m <= kLargest; ++m) {
          Matrix batch(m, kN);
          const int64_t first = (m * 7) % (kLargest - m + 1);
          backend->linear(batch, x.rows(first, m), *weight, {});
          expect_same_bits(alone.rows(first, m), batch,
                           backend->description() + " " + c.name + " M " + std::to_string(m));
        }
      }
    }
  }
}

TEST(Linear, ActivationsOfAnySizeStayFinite) {
  constexpr int64_t kK = 64;
  const StoredRows stored(DType::kQ8_0, 16, kK, 31);
  const auto ref = make_ref_backend();
  for (const auto& cpu : cpu_backends(1)) {
    for (const float scale : {0.0f, 1e-38f, 1e-31f, 1e-20f, 1e20f}) {
      const Matrix x = Matrix::random(2, kK, 32, scale);
      Matrix expected(2, 16);
      Matrix actual(2, 16);
      ref->linear(expected, x, *ref->pack_weight(source_of(stored, kK), WeightFormat::kQ8), {});
      cpu->linear(actual, x, *cpu->pack_weight(source_of(stored, kK), WeightFormat::kQ8), {});
      expect_near(expected, actual, 1e-5, cpu->description() + " scale " + std::to_string(scale));
    }
  }
}

TEST(Linear, RefusesWhatItCannotPack) {
  const StoredRows stored(DType::kF32, 4, 33, 1);
  const auto cpu = make_backend({.name = "cpu", .threads = 1});
  EXPECT_THROW(cpu->pack_weight(source_of(stored, 33), WeightFormat::kQ8), Error);
  EXPECT_THROW(make_cpu_backend("mmx", 1), Error);
  EXPECT_THROW(make_backend({.name = "tpu"}), Error);
}

}  // namespace
}  // namespace polylora
