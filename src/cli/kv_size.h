// How much memory the KV cache gets when nobody says.
#pragma once

#include <cstddef>

#include "engine/engine.h"
#include "model/config.h"

namespace polylora {

/// Bytes that one token's keys and values take in all layers.
size_t kv_bytes_per_token(const ModelConfig& config, DType dtype);

/// Fills in kv_cache_bytes when it is 0: a quarter of `available` memory but at most 4 GiB; up to half of
/// `available` when one request of max_model_len needs it; never more than max_num_seqs such requests can
/// use. With `fit_length`, max_model_len becomes the longest, up to what the model was trained for, that the
/// cache holds.
void fit_kv_cache(const ModelConfig& config, size_t available, bool fit_length, EngineOptions& options);

}  // namespace polylora
