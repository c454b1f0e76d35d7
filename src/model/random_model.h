// A model of any shape with random weights, and adapters for it: for measuring speed without a checkpoint.
#pragma once

#include <memory>

#include "model/adapter.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// Every matrix repeats a few random bf16 rows: packing and computing cost what real weights cost. Norms
/// are 1.
std::unique_ptr<Model> make_random_model(const ModelConfig& config, Backend& backend, WeightFormat format);

/// Pairs of `rank` on all linear layers (is_linear_layer), held in `dtype`.
std::unique_ptr<Adapter> make_random_adapter(const ModelConfig& config, Backend& backend, int64_t rank,
                                             DType dtype);

}  // namespace polylora
