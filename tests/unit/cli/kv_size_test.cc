#include "cli/kv_size.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace polylora
