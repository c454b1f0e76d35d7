// Mixtures of experts: where rows go, how their shares are taken out and put back, and the gradients of that.
#include "ops/routing.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "ops_testing.h"

namespace polylora {
namespace {

/// The weight of every expert in every row; 0 where a row does not go.
Matrix dense_weights(const Routing& routing, int64_t rows) {
  Matrix weights(rows, routing.experts());
  for (int e = 0; e < routing.experts(); ++e) {
    const Routing::Share share = routing.of(e);
    EXPECT_TRUE(std::is_sorted(share.rows.begin(), share.rows.end()));
    for (size_t i = 0; i < share.rows.size(); ++i) weights.at(share.rows[i], e) = share.weights[i];
  }
  return weights;
}

/// softmax over all, the k largest kept, perhaps normalised: as transformers' routers say it.
Matrix expected_weights(const Matrix& logits, const RouterParams& params) {
  const ConstMat view = logits.view();
  Matrix weights(view.rows, view.cols);
  for (int64_t t = 0; t < view.rows; ++t) {
    std::vector<int64_t> order(static_cast<size_t>(view.cols));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return view.row(t)[a] > view.row(t)[b]; });
    double all = 0.0, kept = 0.0;
    for (const int64_t e : order) all += std::exp(double{view.row(t)[e]});
    order.resize(static_cast<size_t>(params.per_token));
    for (const int64_t e : order) kept += std::exp(double{view.row(t)[e]});
    for (const int64_t e : order)
      weights.at(t, e) =
          static_cast<float>(std::exp(double{view.row(t)[e]}) / (params.normalises ? kept : all));
  }
  return weights;
}

TEST(Routing, SendsRowsToTheirLikeliestExperts) {
  for (const int experts : {1, 2, 5, 8, 128}) {
    for (const int k : {1, 2, 8}) {
      for (const bool normalises : {true, false}) {
        if (k > experts) continue;
        const Matrix logits = Matrix::random(37, experts, static_cast<uint64_t>(experts + k), 2.0f);
        const RouterParams params{.per_token = k, .normalises = normalises};
        for (const auto& backend : {make_backend({.name = "ref"}), make_backend({.name = "cpu"})}) {
          const Routing routing = backend->route(logits, params);
          EXPECT_EQ(routing.rows.size(), size_t{37} * static_cast<size_t>(k));
          expect_near(expected_weights(logits, params), dense_weights(routing, 37), 1e-6, "route");
        }
      }
    }
  }
}

TEST(Routing, TakesTheFirstOfEquals) {
  Matrix logits(2, 4);
  logits.at(1, 2) = logits.at(1, 3) = 1.0f;
  const Routing routing = make_backend({.name = "cpu"})->route(logits, {.per_token = 2, .normalises = true});
  EXPECT_THAT(routing.rows, testing::ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(routing.begins, testing::ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(routing.weights, testing::Each(0.5f));
}

/// A step must survive a router that overflowed; what comes out is for the sampler to refuse.
TEST(Routing, IsWholeWhenLogitsAreNot) {
  Matrix logits(3, 6, std::numeric_limits<float>::quiet_NaN());
  logits.at(1, 4) = std::numeric_limits<float>::infinity();
  const Routing routing = make_backend({.name = "cpu"})->route(logits, {.per_token = 3, .normalises = true});
  ASSERT_EQ(routing.rows.size(), 9u);
  const Matrix weights = dense_weights(routing, 3);
  for (int64_t t = 0; t < 3; ++t) EXPECT_EQ(std::count(routing.rows.begin(), routing.rows.end(), t), 3);
}

TEST(Routing, SharesAreTakenOutAndPutBackWithTheirWeights) {
  const auto ref = make_backend({.name = "ref"}), cpu = make_backend({.name = "cpu"});
  for (const int64_t d : {1, 15, 576, 5000}) {
    const Matrix x = Matrix::random(9, d, 1);
    const std::vector<int32_t> rows = {0, 3, 8};
    const std::vector<float> scales = {0.5f, -2.0f, 1.25f};
    const auto run = [&](Backend& b) {
      Matrix some(3, d), y = Matrix::random(9, d, 2);
      b.gather_rows(some, x, rows, scales);
      b.scatter_add(y, some, rows, scales);
      b.scatter_add(y, some, rows);
      b.clear(y.rows(4, 2));
      return y;
    };
    const Matrix y = run(*cpu);
    expect_near(run(*ref), y, 1e-6, "gather and scatter_add");
    EXPECT_FLOAT_EQ(y.at(8, 0), Matrix::random(9, d, 2).at(8, 0) + 2.25f * 1.25f * x.at(8, 0));
    EXPECT_EQ(y.at(5, d - 1), 0.0f);
  }
}

TEST(Routing, BackwardIsTheDerivative) {
  const auto ref = make_ref_backend(), cpu = make_training_backend({.name = "cpu"});
  for (const bool normalises : {true, false}) {
    const RouterParams params{.per_token = 3, .normalises = normalises};
    const Matrix c = Matrix::random(4, 7, 6);
    Matrix logits = Matrix::random(4, 7, 5);
    const auto loss = [&] {  // Σ c∘weights
      const Matrix weights = dense_weights(ref->route(logits, params), 4);
      double sum = 0.0;
      for (size_t i = 0; i < c.values().size(); ++i)
        sum += double{c.values()[i]} * double{weights.values()[i]};
      return sum;
    };
    const Routing routing = ref->route(logits, params);
    std::vector<float> gains;  // c · weight, by entry
    for (int e = 0; e < 7; ++e) {
      const Routing::Share share = routing.of(e);
      for (size_t i = 0; i < share.rows.size(); ++i)
        gains.push_back(c.at(share.rows[i], e) * share.weights[i]);
    }
    Matrix expected(4, 7), actual(4, 7, 9.0f), fast(4, 7, 9.0f);
    for (size_t i = 0; i < logits.values().size(); ++i) {
      const float was = logits.values()[i];
      logits.values()[i] = was + 1e-3f;
      const double above = loss();
      logits.values()[i] = was - 1e-3f;
      expected.values()[i] = static_cast<float>((above - loss()) / 2e-3);
      logits.values()[i] = was;
    }
    ref->route_backward(actual, logits, routing, params, gains);
    cpu->route_backward(fast, logits, routing, params, gains);
    expect_near(expected, actual, 1e-3, "route_backward");
    expect_near(actual, fast, 1e-6, "route_backward of cpu");
  }
}

TEST(Routing, RowDots) {
  const auto ref = make_ref_backend(), cpu = make_training_backend({.name = "cpu"});
  for (const int64_t n : {1, 15, 16, 17, 768, 9001}) {
    const Matrix a = Matrix::random(5, n, 1), b = Matrix::random(5, n, 2);
    Matrix expected(1, 5), actual(1, 5);
    ref->row_dots(expected.values(), a, b);
    cpu->row_dots(actual.values(), a, b);
    expect_near(expected, actual, 1e-5, "row_dots");
  }
}

}  // namespace
}  // namespace polylora
