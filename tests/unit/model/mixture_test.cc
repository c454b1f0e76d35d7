// A mixture of experts in a mixed batch: replies must not depend on who shares it, whatever experts they meet
// at.
#include <gtest/gtest.h>

#include <numeric>

#include "model/forward.h"
#include "model/random_model.h"
#include "model/small_config.h"

namespace polylora {
namespace {

/// Pairs on the attention, the router and every expert.
std::unique_ptr<Adapter> adapter_everywhere(const ModelConfig& config, Backend& backend, float size) {
  auto adapter = std::make_unique<Adapter>(config);
  constexpr int64_t kRank = 4;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearModule& module : linear_modules(config)) {
      if (module.n_begin != 0) continue;  // of fused ones the first
      std::vector<float> a(static_cast<size_t>(kRank * module.k)),
          b(static_cast<size_t>(module.n_count * kRank));
      for (size_t i = 0; i < a.size(); ++i)
        a[i] = size * static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
      for (size_t i = 0; i < b.size(); ++i)
        b[i] = size * static_cast<float>(static_cast<int>(i * 5 % 13) - 6);
      LoraSource source{.k = module.k, .n = site_rows(config, module.site), .pairs = {}};
      source.pairs.push_back({0, module.n_count, kRank, 1.0f, a.data(), b.data(), DType::kF32});
      adapter->set(layer, module.site, backend.pack_lora(source, DType::kF32));
    }
  }
  return adapter;
}

struct Request {
  int length;
  const Adapter* adapter;
};

class Mixture : public testing::TestWithParam<WeightFormat> {
 protected:
  /// The logits of each request's last token, all of them in one batch.
  std::vector<std::vector<float>> logits_of(const std::vector<Request>& requests) {
    Batch batch;
    std::vector<std::vector<int32_t>> pages;
    pages.reserve(requests.size());
    std::vector<int32_t> last;
    for (const Request& request : requests) {
      const int begin = batch.rows(), end = begin + request.length;
      pages.push_back({static_cast<int32_t>(2 * pages.size()), static_cast<int32_t>(2 * pages.size() + 1)});
      for (int t = 0; t < request.length; ++t) {
        batch.token_ids.push_back((request.length * 31 + t * 17) % config_.vocab_size);
        batch.positions.push_back(t);
      }
      batch.sequences.push_back({begin, request.length, 0, pages.back()});
      batch.groups.push_back({begin, end, request.adapter});
      last.push_back(end - 1);
    }
    const auto cache = backend_->make_kv_cache(
        {config_.num_layers, 16, config_.num_kv_heads, config_.head_dim, DType::kBf16});
    ForwardPass forward(*model_, *backend_, batch.rows(), 64);
    forward.run(batch, *cache);
    const auto width = static_cast<size_t>(config_.vocab_size);
    std::vector<float> all(last.size() * width);
    forward.logits(last, Mat(all.data(), static_cast<int64_t>(last.size()), config_.vocab_size));
    std::vector<std::vector<float>> result;
    for (size_t i = 0; i < last.size(); ++i)
      result.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(i * width),
                          all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
    return result;
  }

  const ModelConfig config_ = small_mixture();
  const std::unique_ptr<Backend> backend_ = make_backend({.name = "cpu", .threads = 2});
  const std::unique_ptr<Model> model_ = make_random_model(config_, *backend_, GetParam());
};

TEST_P(Mixture, IsTheSameAloneAndInAMixedBatch) {
  const auto first = adapter_everywhere(config_, *backend_, 0.03f),
             second = adapter_everywhere(config_, *backend_, 0.05f);
  const std::vector<Request> requests = {
      {9, nullptr}, {1, nullptr}, {17, first.get()}, {1, second.get()}, {30, second.get()}};
  const auto together = logits_of(requests);
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(logits_of({requests[i]}).front(), together[i]) << i;
  EXPECT_NE(logits_of({{17, nullptr}}).front(), together[2]) << "the adapter does something";
}

INSTANTIATE_TEST_SUITE_P(Formats, Mixture,
                         testing::Values(WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kQ8,
                                         WeightFormat::kQ4));

}  // namespace
}  // namespace polylora
