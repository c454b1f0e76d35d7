// A model of any shape with random weights, for measuring speed without a checkpoint.
#pragma once

#include <memory>

#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// Every matrix repeats a few random bf16 rows: packing and computing cost what real weights cost. Norms
/// are 1.
std::unique_ptr<Model> make_random_model(const ModelConfig& config, Backend& backend, WeightFormat format);

}  // namespace polylora
