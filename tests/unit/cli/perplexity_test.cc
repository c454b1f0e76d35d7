#include "cli/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "model/forward.h"
#include "model/random_model.h"

namespace polylora {
namespace {

constexpr int kContext = 4;

ModelConfig tiny_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  config.vocab_size = 100;
  config.max_position_embeddings = 64;
  return config;
}

/// -Σ log softmax of the tokens after the first, in double.
double naive_sum(const Model& model, Backend& backend, std::span<const int32_t> tokens) {
  const auto count = static_cast<int>(tokens.size());
  const ModelConfig& config = model.config;
  const std::vector<int32_t> pages = {0};
  const auto cache =
      backend.make_kv_cache({config.num_layers, 1, config.num_kv_heads, config.head_dim, DType::kF32});
  Batch batch;
  batch.token_ids.assign(tokens.begin(), tokens.end());
  batch.positions.resize(tokens.size());
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.sequences.push_back({0, count, 0, pages});
  batch.groups.push_back({0, count, nullptr});
  ForwardPass forward(model, backend, kContext, kContext);
  forward.run(batch, *cache);
  std::vector<float> logits(tokens.size() * static_cast<size_t>(config.vocab_size));
  const Mat rows(logits.data(), count, config.vocab_size);
  forward.logits(batch.positions, rows);
  double sum = 0;
  for (int row = 0; row + 1 < count; ++row) {
    double mass = 0;
    for (int id = 0; id < config.vocab_size; ++id) mass += std::exp(double{rows.row(row)[id]});
    sum += std::log(mass) - double{rows.row(row)[tokens[static_cast<size_t>(row) + 1]]};
  }
  return sum;
}

TEST(Perplexity, PredictsEveryTokenOfAWindowButItsFirst) {
  const auto backend = make_backend({.name = "ref"});
  const auto model = make_random_model(tiny_config(), *backend, WeightFormat::kF32);
  const std::vector<int32_t> tokens = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46};
  const std::span<const int32_t> all(tokens);
  const double expected = naive_sum(*model, *backend, all.subspan(0, 4)) +
                          naive_sum(*model, *backend, all.subspan(4, 4)) +
                          naive_sum(*model, *backend, all.subspan(8, 3));

  const TextLikelihood text =
      measure_likelihood(*model, *backend, tokens, {.context = kContext, .kv_cache_dtype = DType::kF32});

  EXPECT_EQ(text.predicted, 8);
  EXPECT_NEAR(text.nll, expected / 8, 1e-5);
  EXPECT_NEAR(text.perplexity(), std::exp(expected / 8), 1e-2);
}

TEST(Perplexity, LeavesALastTokenAloneThatNothingPredicts) {
  const auto backend = make_backend({.name = "ref"});
  const auto model = make_random_model(tiny_config(), *backend, WeightFormat::kF32);
  const std::vector<int32_t> tokens = {3, 14, 15, 92, 65};
  const TextLikelihood text =
      measure_likelihood(*model, *backend, tokens, {.context = kContext, .kv_cache_dtype = DType::kF32});
  EXPECT_EQ(text.predicted, 3);
}

TEST(Perplexity, RefusesATextWithNothingToPredict) {
  const auto backend = make_backend({.name = "ref"});
  const auto model = make_random_model(tiny_config(), *backend, WeightFormat::kF32);
  EXPECT_THROW(measure_likelihood(*model, *backend, std::vector<int32_t>{3}, {}), Error);
}

}  // namespace
}  // namespace polylora
