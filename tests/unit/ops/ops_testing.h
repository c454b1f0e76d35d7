// What the op tests share: seeded random matrices, weight rows in any dtype, and one backend per instruction
// set.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/ref_backend.h"

namespace polylora {

/// A matrix that owns its floats.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, float fill = 0.0f)
      : values_(static_cast<size_t>(rows * cols), fill), rows_(rows), cols_(cols) {}

  /// Roughly normal values, a pure function of the seed.
  static Matrix random(int64_t rows, int64_t cols, uint64_t seed, float scale = 1.0f) {
    Matrix m(rows, cols);
    for (size_t i = 0; i < m.values_.size(); ++i) {
      double sum = 0.0;
      for (uint64_t j = 0; j < 3; ++j) sum += random_uniform(seed, j, i) - 0.5;
      m.values_[i] = scale * static_cast<float>(2.0 * sum);
    }
    return m;
  }

  Mat view() { return {values_.data(), rows_, cols_}; }
  ConstMat view() const { return {values_.data(), rows_, cols_}; }
  operator Mat() { return view(); }             // NOLINT
  operator ConstMat() const { return view(); }  // NOLINT
  Mat rows(int64_t begin, int64_t count) { return view().row_range(begin, count); }
  ConstMat rows(int64_t begin, int64_t count) const { return view().row_range(begin, count); }

  float& at(int64_t r, int64_t c) { return values_[static_cast<size_t>(r * cols_ + c)]; }
  const float& at(int64_t r, int64_t c) const { return values_[static_cast<size_t>(r * cols_ + c)]; }
  const std::vector<float>& values() const { return values_; }
  std::vector<float>& values() { return values_; }

 private:
  std::vector<float> values_;
  int64_t rows_;
  int64_t cols_;
};

/// Rows of one dtype, as a checkpoint would hold them.
class StoredRows {
 public:
  StoredRows(DType dtype, int64_t rows, int64_t cols, uint64_t seed)
      : dtype_(dtype),
        row_bytes_(dtype_row_bytes(dtype, cols)),
        bytes_(row_bytes_ * static_cast<size_t>(rows)) {
    for (int64_t r = 0; r < rows; ++r) fill_row(r, cols, seed + static_cast<uint64_t>(r) * 7919);
  }

  const std::byte* row(int64_t r) const { return bytes_.data() + static_cast<size_t>(r) * row_bytes_; }
  void append_to(WeightSource& source) const {
    for (size_t at = 0; at < bytes_.size(); at += row_bytes_)
      source.rows.push_back({bytes_.data() + at, dtype_});
  }

 private:
  void fill_row(int64_t r, int64_t cols, uint64_t seed) {
    const Matrix values = Matrix::random(1, cols, seed, 0.5f);
    std::byte* out = bytes_.data() + static_cast<size_t>(r) * row_bytes_;
    if (dtype_ == DType::kF32) {
      std::memcpy(out, values.values().data(), row_bytes_);
    } else if (dtype_block_size(dtype_) == 1) {
      for (int64_t c = 0; c < cols; ++c) {
        const float value = values.at(0, c);
        const uint16_t bits = dtype_ == DType::kBf16 ? f32_to_bf16(value) : f32_to_f16(value);
        std::memcpy(out + 2 * c, &bits, 2);
      }
    } else {
      for (size_t i = 0; i < row_bytes_; ++i) out[i] = static_cast<std::byte>(random_bits(seed, 5, i));
      const auto block_bytes = static_cast<size_t>(dtype_block_bytes(dtype_));
      for (size_t at = 0; at < row_bytes_; at += block_bytes) set_header(out + at, seed + at);
    }
  }

  void set_header(std::byte* block, uint64_t seed) {
    const auto put = [&](std::byte* at, double value) {
      const uint16_t bits = f32_to_f16(static_cast<float>(value));
      std::memcpy(at, &bits, 2);
    };
    put(block, (dtype_ == DType::kQ8_0 ? 0.004 : 0.06) * (0.5 + random_uniform(seed, 6, 0)));
    if (dtype_ == DType::kQ4_1) put(block + 2, -0.5 * random_uniform(seed, 6, 1));
  }

  DType dtype_;
  size_t row_bytes_;
  std::vector<std::byte> bytes_;
};

inline WeightSource source_of(const StoredRows& rows, int64_t cols) {
  WeightSource source{.cols = cols, .rows = {}};
  rows.append_to(source);
  return source;
}

/// Every kernel set that this machine runs, with a given number of threads.
inline std::vector<std::unique_ptr<TrainingBackend>> cpu_backends(int threads) {
  std::vector<std::unique_ptr<TrainingBackend>> backends;
  for (const std::string_view isa : available_isas()) backends.push_back(make_cpu_backend(isa, threads));
  return backends;
}

/// max |a-b| / (absolute + relative * max|a|) over a whole matrix must not exceed 1.
inline void expect_near(const Matrix& expected, const Matrix& actual, double relative,
                        const std::string& what) {
  double largest = 0.0;
  double worst = 0.0;
  ASSERT_EQ(expected.values().size(), actual.values().size()) << what;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual.values()[i])) << what << " at " << i;
    largest = std::max(largest, std::fabs(double{expected.values()[i]}));
    worst = std::max(worst, std::fabs(double{expected.values()[i]} - double{actual.values()[i]}));
  }
  EXPECT_LE(worst, relative * largest + 1e-6) << what << ", largest value " << largest;
}

inline void expect_same_bits(ConstMat expected, ConstMat actual, const std::string& what) {
  ASSERT_EQ(expected.rows, actual.rows) << what;
  for (int64_t r = 0; r < expected.rows; ++r) {
    ASSERT_EQ(0,
              std::memcmp(expected.row(r), actual.row(r), static_cast<size_t>(expected.cols) * sizeof(float)))
        << what << ", row " << r;
  }
}

/// f(backend) must give the same matrix on ref and on every kernel set, with 1 and 2 threads bit-identically.
template <typename F>
void compare_all(F f, double tolerance, const std::string& what) {
  const Matrix expected = f(*make_ref_backend());
  for (const std::string_view isa : available_isas()) {
    const Matrix one = f(*make_cpu_backend(isa, 1));
    expect_near(expected, one, tolerance, what + " " + std::string(isa));
    expect_same_bits(one, f(*make_cpu_backend(isa, 2)), what + " " + std::string(isa));
  }
}

}  // namespace polylora
