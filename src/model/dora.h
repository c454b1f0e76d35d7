// DoRA: y = magnitude / ‖W + s·B·A‖ ∘ (W·x + s·B·(A·x)), the norm taken over each output row
// (https://arxiv.org/abs/2402.09353; PEFT's tuners/lora/dora.py).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/weight.h"

namespace polylora {

/// ‖w[n] + scale·B[n]·A‖ for the rows [n_begin, n_begin + n_count) of w[N,K] that the pair covers. Reads each
/// of them once, and forms the sum: rank times the work of a norm. Any thread.
std::vector<float> adapted_row_norms(const Weight& w, const LoraPairSource& pair);

/// DoRA leaves the base's bias alone: what is left of it after y * gain, with bias in y, must be added back.
/// bias[N] * (1 - gain[N]); empty without a bias.
std::vector<float> bias_beside_gain(std::span<const float> bias, std::span<const float> gain);

}  // namespace polylora
