#include "model/dora.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/backend.h"

namespace polylora {
namespace {

TEST(Dora, NormsAreOfTheRowsWithThePairAdded) {
  const auto backend = make_backend({.name = "cpu", .threads = 1});
  const std::vector<float> w = {9, 9, 3, 0, 0, 4, 1, 1};  // [4,2]
  const auto weight = backend->pack_weight(rows_of(ConstMat(w.data(), 4, 2)), WeightFormat::kF32);
  const std::vector<float> a = {0, 2, 4, 0};  // [2,2]
  const std::vector<float> b = {1, 0, 0, 1};  // [2,2]: rows 1 and 2 of w
  const LoraPairSource pair{.n_begin = 1,
                            .n_count = 2,
                            .rank = 2,
                            .scale = 2.0f,
                            .a = a.data(),
                            .b = b.data(),
                            .dtype = DType::kF32};
  const std::vector<float> norms = adapted_row_norms(*weight, pair);
  ASSERT_EQ(norms.size(), 2u);
  EXPECT_FLOAT_EQ(norms[0], std::hypot(3.0f, 4.0f));
  EXPECT_FLOAT_EQ(norms[1], std::hypot(8.0f, 4.0f));
}

TEST(Dora, TheBiasStays) {
  const std::vector<float> bias = {2, -1}, gain = {0.5f, 3.0f};
  EXPECT_EQ(bias_beside_gain(bias, gain), (std::vector<float>{1.0f, 2.0f}));
  EXPECT_TRUE(bias_beside_gain({}, gain).empty());
}

}  // namespace
}  // namespace polylora
