// The frequencies of rotary embedding and the table of them.
#include <cmath>
#include <numbers>

#include "model/config.h"

namespace polylora {
namespace {

/// transformers' _compute_llama3_parameters for one frequency: slow ones are divided by the factor, fast ones
/// kept, those between blended.
float llama3_frequency(float frequency, const RopeScaling& scaling) {
  const auto original = static_cast<float>(scaling.original_max_position_embeddings);
  const auto factor = static_cast<float>(scaling.factor);
  const auto low = static_cast<float>(scaling.low_freq_factor);
  const auto high = static_cast<float>(scaling.high_freq_factor);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

float scaled_frequency(float frequency, size_t pair, const RopeScaling& scaling, int positions) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kLinear:
      return frequency / static_cast<float>(scaling.factor);
    case RopeScaling::Kind::kLlama3:
      return llama3_frequency(frequency, scaling);
    case RopeScaling::Kind::kLongRope: {
      const bool is_long = positions > scaling.original_max_position_embeddings;
      return frequency / (is_long ? scaling.long_factor : scaling.short_factor)[pair];
    }
    case RopeScaling::Kind::kNone:
      break;
  }
  return frequency;
}

}  // namespace

// All in float32, as transformers: inv_freq = 1 / theta^(2i / head_dim).
std::vector<float> rope_frequencies(const ModelConfig& config, int positions) {
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    const float frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    frequencies[i] = scaled_frequency(frequency, i, config.rope_scaling, positions);
  }
  return frequencies;
}

std::vector<float> make_rope_table(const ModelConfig& config, int positions, bool local) {
  if (local) {
    ModelConfig unscaled = config;
    unscaled.rope_theta = config.local_rope_theta;
    unscaled.rope_scaling = {};
    return make_rope_table(unscaled, positions);
  }
  const std::vector<float> frequencies = rope_frequencies(config, positions);
  const auto factor = static_cast<float>(config.rope_scaling.attention_factor);
  const size_t half = frequencies.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * half);
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    float* row = table.data() + p * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      row[i] = factor * std::cos(angle);
      row[half + i] = factor * std::sin(angle);
    }
  }
  return table;
}

}  // namespace polylora
