// PiSSA (Meng et al. 2024, arXiv:2404.02948): the pairs start as the principal part of the weights, the base
// keeps the rest.
#pragma once

#include <vector>

#include "model/weights.h"
#include "ops/training_backend.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

/// For every pair: with W ≈ U·S·Vᵀ of the pair's rank, A = sqrt(S/scale)·Vᵀ, B = U·sqrt(S/scale), and
/// W -= scale·B·A. The decomposition is by subspace iteration; `iterations` < 0: until nothing changes in
/// f32. A pure function of the base, the settings and the seed.
void initialize_pissa(Model& model, TrainingBackend& backend, TrainableAdapter& trained, int iterations,
                      uint64_t seed);

}  // namespace polylora
