#include "cli/kv_size.h"

#include <algorithm>

#include "base/error.h"
#include "ops/weight.h"

namespace polylora {
namespace {

constexpr size_t kMostByDefault = size_t{4} << 30;

/// KV memory of one request, which takes whole pages.
size_t request_bytes(size_t token_bytes, int length) {
  const int pages = (length + kKvPageSize - 1) / kKvPageSize;
  return token_bytes * static_cast<size_t>(pages) * kKvPageSize;
}

size_t part_of(size_t bytes, double share) {
  return share == 1 ? bytes : static_cast<size_t>(static_cast<double>(bytes) * share);
}

}  // namespace

size_t kv_bytes_per_token(const ModelConfig& config, DType dtype) {
  return kv_token_bytes(dtype, config.num_layers, config.num_kv_heads, config.head_dim);
}

void fit_kv_cache(const ModelConfig& config, size_t available, bool fit_length, EngineOptions& options,
                  double share) {
  available = part_of(available, share);
  const size_t token_bytes = kv_bytes_per_token(config, options.kv_cache_dtype);
  const int length = options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  const size_t longest_request = request_bytes(token_bytes, length);
  if (options.kv_cache_bytes == 0) {
    size_t bytes = std::min(available / 4, part_of(kMostByDefault, share));
    if (!fit_length) bytes = std::max(bytes, std::min(longest_request, available / 2));
    options.kv_cache_bytes = std::min(bytes, longest_request * static_cast<size_t>(options.max_num_seqs));
  }
  if (fit_length) {
    const size_t pages = options.kv_cache_bytes / (token_bytes * kKvPageSize);
    const size_t tokens = std::min(pages * kKvPageSize, static_cast<size_t>(config.max_position_embeddings));
    options.max_model_len = static_cast<int>(tokens);
  }
}

void fit_kv_caches(std::span<const KvCachePlan> plans, size_t available, size_t total) {
  size_t given = 0, open_token_bytes = 0;
  for (const auto& [config, fit_length, options] : plans) {
    given += options.kv_cache_bytes;
    if (options.kv_cache_bytes == 0) open_token_bytes += kv_bytes_per_token(config, options.kv_cache_dtype);
  }
  if (total > 0 && (given > total || (given == total && open_token_bytes > 0))) {
    fail(ErrorCode::kInvalidArgument,
         "--kv-cache-memory is {} bytes for all bases, and those with a size of their own take {} of them",
         total, given);
  }
  available -= std::min(available, given);
  for (const auto& [config, fit_length, options] : plans) {
    double share = 1;
    if (options.kv_cache_bytes == 0) {
      const auto token_bytes = static_cast<double>(kv_bytes_per_token(config, options.kv_cache_dtype));
      share = token_bytes / static_cast<double>(open_token_bytes);
      if (total > 0) options.kv_cache_bytes = part_of(total - given, share);
    }
    fit_kv_cache(config, available, fit_length, options, share);
  }
}

}  // namespace polylora
