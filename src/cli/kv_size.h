// How much memory the KV cache gets when nobody says.
#pragma once

#include <cstddef>
#include <span>

#include "engine/engine.h"
#include "model/config.h"

namespace polylora {

/// Bytes that one token's keys and values take in all layers.
size_t kv_bytes_per_token(const ModelConfig& config, DType dtype);

/// Fills in kv_cache_bytes when it is 0: a quarter of `available` memory but at most 4 GiB; up to half of
/// `available` when one request of max_model_len needs it; never more than max_num_seqs such requests can
/// use. With `fit_length`, max_model_len becomes the longest, up to what the model was trained for, that the
/// cache holds. Where this is one of several caches, `share` is its part of both limits.
void fit_kv_cache(const ModelConfig& config, size_t available, bool fit_length, EngineOptions& options,
                  double share = 1);

/// One of several caches.
struct KvCachePlan {
  const ModelConfig& config;
  bool fit_length = false;
  EngineOptions& options;
};

/// fit_kv_cache() for all of them: `total` bytes (0: what one cache would get), less the sizes that are
/// given, go to the others so that each holds the same number of tokens. Throws kInvalidArgument when the
/// given sizes leave nothing of a total.
void fit_kv_caches(std::span<const KvCachePlan> plans, size_t available, size_t total);

}  // namespace polylora
