#include "cli/kv_size.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

constexpr size_t kGiB = size_t{1} << 30;

/// 1 KiB of keys and values per token in bf16.
ModelConfig small_model() {
  ModelConfig config;
  config.num_layers = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.max_position_embeddings = 8192;
  return config;
}

TEST(KvSize, BytesPerToken) {
  EXPECT_EQ(kv_bytes_per_token(small_model(), DType::kBf16), 1024U);
  EXPECT_EQ(kv_bytes_per_token(small_model(), DType::kF32), 2048U);
  EXPECT_EQ(kv_bytes_per_token(small_model(), DType::kI8), 512U + 2 * 4 * 2 * sizeof(float));
}

TEST(KvSize, AQuarterOfTheMemoryWithinLimits) {
  EngineOptions options;
  options.max_num_seqs = 1 << 20;
  fit_kv_cache(small_model(), 8 * kGiB, false, options);
  EXPECT_EQ(options.kv_cache_bytes, 2 * kGiB);

  options.kv_cache_bytes = 0;
  fit_kv_cache(small_model(), 64 * kGiB, false, options);
  EXPECT_EQ(options.kv_cache_bytes, 4 * kGiB);

  options.kv_cache_bytes = 0;
  options.max_num_seqs = 2;  // 2 × 8192 tokens × 1 KiB
  fit_kv_cache(small_model(), 64 * kGiB, false, options);
  EXPECT_EQ(options.kv_cache_bytes, size_t{16} << 20);
}

TEST(KvSize, OneRequestMayTakeHalf) {
  EngineOptions options;
  fit_kv_cache(small_model(), size_t{20} << 20, false, options);  // one request: 8 MiB; a quarter: 5 MiB
  EXPECT_EQ(options.kv_cache_bytes, size_t{8} << 20);
}

TEST(KvSize, FitsTheLengthToTheCache) {
  EngineOptions options;
  options.kv_cache_bytes = size_t{1} << 20;
  fit_kv_cache(small_model(), 64 * kGiB, true, options);
  EXPECT_EQ(options.max_model_len, 1024);

  options.kv_cache_bytes = kGiB;
  fit_kv_cache(small_model(), 64 * kGiB, true, options);
  EXPECT_EQ(options.max_model_len, 8192);
}

TEST(KvSize, AGivenSizeStays) {
  EngineOptions options;
  options.kv_cache_bytes = 12345;
  fit_kv_cache(small_model(), kGiB, false, options);
  EXPECT_EQ(options.kv_cache_bytes, 12345U);
}

TEST(KvSize, SeveralCachesHoldEquallyManyTokens) {
  ModelConfig large = small_model();
  large.num_layers *= 3;
  const ModelConfig small = small_model();
  EngineOptions a, b, own;
  own.kv_cache_bytes = kGiB;
  const std::vector<KvCachePlan> plans{{small, false, a}, {large, false, b}, {small, false, own}};
  fit_kv_caches(plans, 64 * kGiB, 5 * kGiB);
  EXPECT_EQ(a.kv_cache_bytes, kGiB);
  EXPECT_EQ(b.kv_cache_bytes, 3 * kGiB);
  EXPECT_EQ(own.kv_cache_bytes, kGiB);

  a.kv_cache_bytes = b.kv_cache_bytes = 0;
  a.max_num_seqs = b.max_num_seqs = 1 << 20;
  fit_kv_caches(plans, 9 * kGiB, 0);  // a quarter of what the given size leaves
  EXPECT_EQ(a.kv_cache_bytes, kGiB / 2);
  EXPECT_EQ(b.kv_cache_bytes, kGiB / 2 * 3);

  a.kv_cache_bytes = b.kv_cache_bytes = 0;
  EXPECT_THROW(fit_kv_caches(plans, 64 * kGiB, kGiB), Error) << "nothing is left for two of them";
  a.kv_cache_bytes = b.kv_cache_bytes = kGiB;
  EXPECT_THROW(fit_kv_caches(plans, 64 * kGiB, 2 * kGiB), Error);
}

}  // namespace
}  // namespace polylora
