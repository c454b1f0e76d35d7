#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/row_math.h"

namespace polylora {
namespace {

using nlohmann::json;

std::vector<float> floats(const json& values) {
  std::vector<float> result;
  for (const json& value : values) result.push_back(value.is_null() ? row_math::kMasked : value.get<float>());
  return result;
}

SamplingParams params_of(const json& values) {
  SamplingParams p;
  p.temperature = values.value("temperature", p.temperature);
  p.top_k = values.value("top_k", p.top_k);
  p.top_p = values.value("top_p", p.top_p);
  p.min_p = values.value("min_p", p.min_p);
  p.repetition_penalty = values.value("repetition_penalty", p.repetition_penalty);
  p.presence_penalty = values.value("presence_penalty", p.presence_penalty);
  p.frequency_penalty = values.value("frequency_penalty", p.frequency_penalty);
  p.min_tokens = values.value("min_tokens", p.min_tokens);
  p.stop_token_ids = values.value("stop_token_ids", p.stop_token_ids);
  p.allowed_token_ids = values.value("allowed_token_ids", p.allowed_token_ids);
  p.bad_words_token_ids = values.value("bad_words_token_ids", p.bad_words_token_ids);
  if (values.contains("logit_bias")) {
    for (const auto& [id, bias] : values["logit_bias"].items()) {
      p.logit_bias.emplace_back(std::stoi(id), bias.get<float>());
    }
  }
  return p;
}

TEST(Sampler, MatchesTheRecordedDistributions) {
  const json file = json::parse(std::ifstream(POLYLORA_TEST_DATA "/sampling/cases.json"));
  int number = 0;
  for (const json& one : file["cases"]) {
    SCOPED_TRACE("case " + std::to_string(number++) + " " + one["kind"].get<std::string>() + " " +
                 one["params"].dump());
    const SamplingParams params = params_of(one["params"]);
    const auto prompt = one["prompt_token_ids"].get<std::vector<int32_t>>();
    const auto output = one["output_token_ids"].get<std::vector<int32_t>>();
    std::vector<float> logits = floats(one["logits"]);
    Sampler sampler(static_cast<int>(logits.size()), 1);
    const auto actual = sampler.probabilities(
        logits, {.params = &params, .prompt = prompt, .output = output, .eos_ids = {}, .key = 0});

    const auto processed = floats(one["logits_after_penalties"]);
    for (size_t i = 0; i < logits.size(); ++i) {
      if (std::isinf(processed[i])) {
        EXPECT_EQ(logits[i], processed[i]);
      } else {
        EXPECT_NEAR(logits[i], processed[i], 1e-5 * (1 + std::abs(processed[i])));
      }
    }
    auto expected = one["probs"].get<std::vector<double>>();
    auto sorted = actual;
    if (one["kind"] == "ties" && params.top_p < 1) {
      std::ranges::sort(expected);
      std::ranges::sort(sorted);
    } else {
      std::vector<int> kept;
      for (size_t i = 0; i < actual.size(); ++i) {
        if (actual[i] > 0) kept.push_back(static_cast<int>(i));
      }
      EXPECT_EQ(kept, one["kept"].get<std::vector<int>>());
    }
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(sorted[i], expected[i], 1e-5);
  }
  EXPECT_EQ(number, 246);
}

SamplingParams filtered(float temperature, int top_k = 0, float top_p = 1, float min_p = 0,
                        int logprobs = -1) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  params.logprobs = logprobs;
  return params;
}

std::vector<float> random_logits(int count, unsigned seed, float spread = 3.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The fast paths (block maxima, pruning, selection) against sorting everything, at sizes that do not divide.
// A grain rounds the logits, as bf16 does: many are equal, and of those the last ones stay.
TEST(Sampler, LargeVocabulariesAgreeWithSorting) {
  for (const int vocab : {1, 2, 63, 64, 65, 1000, 5003}) {
    Sampler sampler(vocab, 1);
    for (const auto& [top_k, top_p, min_p, spread, grain] :
         {std::tuple(0, 0.9f, 0.0f, 3.0f, 0.0f), std::tuple(0, 0.9f, 0.0f, 3.0f, 0.5f),
          std::tuple(0, 0.7f, 0.0f, 0.5f, 1.0f), std::tuple(0, 0.99f, 0.0f, 0.01f, 0.0f),
          std::tuple(0, 0.5f, 0.0f, 8.0f, 0.0f), std::tuple(40, 1.0f, 0.0f, 3.0f, 0.0f),
          std::tuple(900, 0.7f, 0.0f, 3.0f, 0.0f), std::tuple(0, 1.0f, 0.05f, 2.0f, 0.0f),
          std::tuple(50, 0.95f, 0.02f, 2.0f, 0.0f)}) {
      const SamplingParams params = filtered(0.8f, top_k, top_p, min_p);
      auto logits = random_logits(vocab, 5, spread);
      if (grain > 0)
        std::ranges::transform(logits, logits.begin(),
                               [g = grain](float x) { return std::round(x / g) * g; });
      std::vector<std::pair<double, int>> order;
      for (int i = 0; i < vocab; ++i) order.emplace_back(logits[static_cast<size_t>(i)], i);
      std::ranges::sort(order, std::greater<>());
      const double max = order.front().first;
      std::erase_if(order, [&](const auto& o) { return std::exp((o.first - max) / 0.8) < params.min_p; });
      if (top_k > 0 && order.size() > static_cast<size_t>(top_k)) order.resize(static_cast<size_t>(top_k));
      double total = 0, above = 0;
      for (const auto& o : order) total += std::exp((o.first - max) / 0.8);
      std::vector<double> expected(static_cast<size_t>(vocab));
      for (const auto& o : order) {
        if (above >= top_p * total && top_p < 1) break;
        above += expected[static_cast<size_t>(o.second)] = std::exp((o.first - max) / 0.8);
      }
      auto copy = logits;
      const auto actual = sampler.probabilities(
          copy, {.params = &params, .prompt = {}, .output = {}, .eos_ids = {}, .key = 0});
      int differing = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        differing += (expected[i] > 0) != (actual[i] > 0);
        if (differing == 0) {
          EXPECT_NEAR(actual[i], expected[i] / above, 1e-4);
        }
      }
      EXPECT_LE(differing, 1) << "one at the edge may differ by rounding; vocab " << vocab << " top_p "
                              << top_p;
    }
  }
}

TEST(Sampler, GreedyTakesTheFirstOfEqualLogits) {
  for (const int vocab : {3, 64, 200, 1000}) {
    std::vector<float> logits(static_cast<size_t>(vocab), 1.0f);
    logits[0] = std::nanf("");
    if (vocab > 2) logits[static_cast<size_t>(vocab) - 1] = logits[static_cast<size_t>(vocab) - 2] = 2.0f;
    const SamplingParams params = filtered(0);
    const SamplingInput input{.params = &params, .prompt = {}, .output = {}, .eos_ids = {}, .key = 0};
    TokenOutput output;
    Sampler(vocab, 1).sample(Mat(logits.data(), 1, vocab), std::span(&input, 1), std::span(&output, 1));
    EXPECT_EQ(output.id, vocab - 2);
  }
}

TEST(Sampler, ImpossibleRowsStillYieldAToken) {
  for (const float value : {row_math::kMasked, -row_math::kMasked, std::nanf("")}) {
    for (const auto& [top_k, top_p, min_p] :
         {std::tuple(0, 1.0f, 0.0f), std::tuple(0, 0.5f, 0.0f), std::tuple(5, 0.5f, 0.1f)}) {
      std::vector<float> logits(100, value);
      const SamplingParams params = filtered(1, top_k, top_p, min_p, 3);
      const SamplingInput input{.params = &params, .prompt = {}, .output = {}, .eos_ids = {}, .key = 0};
      TokenOutput output;
      Sampler(100, 1).sample(Mat(logits.data(), 1, 100), std::span(&input, 1), std::span(&output, 1));
      EXPECT_GE(output.id, 0);
      EXPECT_LT(output.id, 100);
    }
  }
}

// Pearson's chi-square of 20 000 draws against the exact distribution.
TEST(Sampler, DrawsFollowTheDistribution) {
  constexpr int kVocab = 300, kDraws = 20000;
  for (const auto& [top_k, top_p, min_p] : {std::tuple(0, 1.0f, 0.0f), std::tuple(20, 1.0f, 0.0f),
                                            std::tuple(0, 0.9f, 0.0f), std::tuple(0, 1.0f, 0.01f)}) {
    const SamplingParams params = filtered(0.9f, top_k, top_p, min_p);
    const auto logits = random_logits(kVocab, 11, 1.5f);
    Distribution distribution(kVocab);
    distribution.build(logits, params);
    const auto expected = distribution.probabilities();
    Sampler sampler(kVocab, 1);
    std::vector<int> counts(kVocab);
    std::vector<int32_t> output;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
      auto copy = logits;
      const SamplingInput input{
          .params = &params, .prompt = {}, .output = output, .eos_ids = {}, .key = draw};
      TokenOutput token;
      sampler.sample(Mat(copy.data(), 1, kVocab), std::span(&input, 1), std::span(&token, 1));
      ++counts[static_cast<size_t>(token.id)];
    }
    double chi_square = 0, rest = 0;
    int cells = 0, rest_count = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] == 0) {
        EXPECT_EQ(counts[i], 0);
      }
      if (expected[i] * kDraws < 5) {
        rest += expected[i] * kDraws;
        rest_count += counts[i];
        continue;
      }
      ++cells;
      chi_square += std::pow(counts[i] - expected[i] * kDraws, 2) / (expected[i] * kDraws);
    }
    if (rest > 5) chi_square += std::pow(rest_count - rest, 2) / rest;
    EXPECT_LT(chi_square, cells + 4.5 * std::sqrt(2.0 * cells)) << cells << " cells";
  }
}

TEST(Sampler, SeedsReproduceWhateverTheNeighboursAndThreads) {
  constexpr int kVocab = 1000, kRows = 40;
  const SamplingParams params = filtered(1.2f, 0, 0.95f, 0, 5);
  const auto logits = random_logits(kVocab * kRows, 4);
  std::vector<SamplingInput> inputs;
  const std::vector<int32_t> history(kRows, 1);
  for (size_t row = 0; row < kRows; ++row) {
    inputs.push_back({.params = &params,
                      .prompt = {},
                      .output = std::span(history).first(row),
                      .eos_ids = {},
                      .key = row % 3});
  }
  std::vector<TokenOutput> together(kRows);
  auto copy = logits;
  Sampler(kVocab, 3).sample(Mat(copy.data(), kRows, kVocab), inputs, together);
  Sampler alone(kVocab, 1);
  copy = logits;
  for (size_t row = kRows; row-- > 0;) {
    TokenOutput token;
    alone.sample(Mat(&copy[row * kVocab], 1, kVocab), std::span(&inputs[row], 1), std::span(&token, 1));
    EXPECT_EQ(token.id, together[row].id);
    for (size_t i = 0; i < token.logprobs.size(); ++i) {
      EXPECT_EQ(token.logprobs[i].id, together[row].logprobs[i].id);
      EXPECT_EQ(token.logprobs[i].logprob, together[row].logprobs[i].logprob);
    }
  }
}

TEST(Logprobs, AreTheLogSoftmaxWithRanks) {
  for (const int vocab : {5, 64, 1000, 20011}) {
    auto logits = random_logits(vocab, 9);
    logits[3] = logits[1];  // a tie: the lower id ranks first
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    std::vector<int32_t> order(static_cast<size_t>(vocab));
    for (int32_t i = 0; i < vocab; ++i) order[static_cast<size_t>(i)] = i;
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    Logprobs logprobs(vocab);
    for (const int32_t token : {0, 1, 3, vocab - 1}) {
      const auto result = logprobs.of(logits, token, 20);
      ASSERT_EQ(result.size(), 1u + static_cast<size_t>(std::min(20, vocab)));
      EXPECT_EQ(result[0].id, token);
      EXPECT_EQ(order[static_cast<size_t>(result[0].rank) - 1], token);
      for (const TokenLogprob& one : result) {
        EXPECT_NEAR(one.logprob, logits[static_cast<size_t>(one.id)] - std::log(sum), 2e-6);
      }
      for (size_t i = 1; i < result.size(); ++i) {
        EXPECT_EQ(result[i].id, order[i - 1]);
        EXPECT_EQ(result[i].rank, static_cast<int32_t>(i));
      }
    }
  }
}

// Not a check but a number to look at: run with --gtest_also_run_disabled_tests.
TEST(SamplerSpeed, DISABLED_Rows16By49152) {
  constexpr int kVocab = 49152, kRows = 16;
  const auto logits = random_logits(kVocab * kRows, 1, 2.5f);
  const std::pair<const char*, SamplingParams> kinds[] = {
      {"greedy", filtered(0)},
      {"temperature", filtered(1)},
      {"top_k 50", filtered(1, 50)},
      {"top_p 0.9", filtered(1, 0, 0.9f)},
      {"top_k 50 top_p 0.9", filtered(1, 50, 0.9f)},
      {"min_p 0.05", filtered(1, 0, 1, 0.05f)},
      {"greedy, logprobs 5", filtered(0, 0, 1, 0, 5)},
  };
  for (const int threads : {1, 2}) {
    Sampler sampler(kVocab, threads);
    for (const auto& [name, params] : kinds) {
      const std::vector<SamplingInput> inputs(
          kRows, {.params = &params, .prompt = {}, .output = {}, .eos_ids = {}, .key = 1});
      std::vector<TokenOutput> outputs(kRows);
      double best = 1e9;
      for (int repeat = 0; repeat < 30; ++repeat) {
        auto copy = logits;
        const auto start = std::chrono::steady_clock::now();
        sampler.sample(Mat(copy.data(), kRows, kVocab), inputs, outputs);
        const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
        best = std::min(best, took.count());
      }
      std::printf("%d threads  %-20s %8.0f us / step\n", threads, name, best);
    }
  }
}

class FixedConstraint final : public TokenConstraint {
 public:
  FixedConstraint(TokenMask mask, bool ends)
      : mask_(std::make_shared<TokenMask>(std::move(mask))), ends_(ends) {}
  std::shared_ptr<const TokenMask> allowed() override { return mask_; }
  bool may_end() const override { return ends_; }
  bool advance(int32_t) override { return true; }

 private:
  const std::shared_ptr<const TokenMask> mask_;
  const bool ends_;
};

int32_t constrained(TokenConstraint& constraint, const SamplingParams& params, int vocab = 150) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i);
  const std::vector<int32_t> eos = {149};
  const SamplingInput input = {
      .params = &params, .prompt = {}, .output = {}, .eos_ids = eos, .key = 0, .constraint = &constraint};
  TokenOutput output;
  Sampler(vocab, 1).sample(Mat(logits.data(), 1, vocab), {&input, 1}, {&output, 1});
  return output.id;
}

TEST(Sampler, AConstraintDecidesWhatMayBeDrawn) {
  SamplingParams greedy;
  greedy.temperature = 0;
  FixedConstraint some({uint64_t{1} << 63, 1, 0}, false), either({0, 0, uint64_t{1} << 3}, true),
      end({0, 0, 0}, true);
  EXPECT_EQ(constrained(some, greedy), 64);
  EXPECT_EQ(constrained(either, greedy), 149);
  FixedConstraint narrow({uint64_t{1} << 5},
                         false);  // a tokenizer may know fewer tokens than the model has rows
  EXPECT_EQ(constrained(narrow, greedy), 5);
  SamplingParams random;
  random.temperature = 5;
  random.seed = 1;
  EXPECT_EQ(constrained(narrow, random), 5);
  // min_tokens holds only while there is something else to write.
  greedy.min_tokens = 10;
  EXPECT_EQ(constrained(either, greedy), 131);
  EXPECT_EQ(constrained(end, greedy), 149);
}

}  // namespace
}  // namespace polylora
