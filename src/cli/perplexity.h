// How well a model predicts a text: the mean negative log-likelihood of its tokens.
#pragma once

#include <cstdint>
#include <span>

#include "model/adapter.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

struct PerplexityOptions {
  int context = 512;  // tokens of a window; windows do not overlap
  DType kv_cache_dtype = DType::kBf16;
  const Adapter* adapter = nullptr;  // null: the base model alone
};

struct TextLikelihood {
  int64_t predicted = 0;  // tokens: all but the first of each window
  double nll = 0;         // their mean negative log-likelihood, in nats

  double perplexity() const;
};

/// Every window is computed as a prompt is, through paged attention. Throws kInvalidArgument when the text
/// has fewer than two tokens.
TextLikelihood measure_likelihood(const Model& model, Backend& backend, std::span<const int32_t> tokens,
                                  const PerplexityOptions& options);

}  // namespace polylora
