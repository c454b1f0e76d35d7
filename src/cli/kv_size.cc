#include "cli/kv_size.h"

#include <algorithm>

#include "ops/weight.h"

namespace polylora {
namespace {

constexpr size_t kMostByDefault = size_t{4} << 30;

/// KV memory of one request, which takes whole pages.
size_t request_bytes(size_t token_bytes, int length) {
  const int pages = (length + kKvPageSize - 1) / kKvPageSize;
  return token_bytes * static_cast<size_t>(pages) * kKvPageSize;
}

}  // namespace

size_t kv_bytes_per_token(const ModelConfig& config, DType dtype) {
  return kv_token_bytes(dtype, config.num_layers, config.num_kv_heads, config.head_dim);
}

void fit_kv_cache(const ModelConfig& config, size_t available, bool fit_length, EngineOptions& options) {
  const size_t token_bytes = kv_bytes_per_token(config, options.kv_cache_dtype);
  const int length = options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  const size_t longest_request = request_bytes(token_bytes, length);
  if (options.kv_cache_bytes == 0) {
    size_t bytes = std::min(available / 4, kMostByDefault);
    if (!fit_length) bytes = std::max(bytes, std::min(longest_request, available / 2));
    options.kv_cache_bytes = std::min(bytes, longest_request * static_cast<size_t>(options.max_num_seqs));
  }
  if (fit_length) {
    const size_t pages = options.kv_cache_bytes / (token_bytes * kKvPageSize);
    const size_t tokens = std::min(pages * kKvPageSize, static_cast<size_t>(config.max_position_embeddings));
    options.max_model_len = static_cast<int>(tokens);
  }
}

}  // namespace polylora
