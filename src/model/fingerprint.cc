#include "model/fingerprint.h"

#include <fmt/format.h>

#include <array>
#include <span>

#include "base/hash.h"

namespace polylora {

std::string base_fingerprint(const Model& model) {
  const ModelConfig& config = model.config;
  const std::array<int64_t, 6> shapes{config.num_layers, config.hidden_size,  config.intermediate_size,
                                      config.num_heads,  config.num_kv_heads, config.head_dim};
  uint64_t hash = hash_bytes(std::as_bytes(std::span(shapes)));
  if (config.has_experts()) {
    const std::array<int64_t, 2> experts{config.experts.count, config.experts.per_token};
    hash = hash_bytes(std::as_bytes(std::span(experts)), hash);
  }
  const auto add = [&](const std::vector<float>& gains) {
    hash = hash_bytes(std::as_bytes(std::span(gains)), hash);
  };
  for (const Layer& layer : model.layers) {
    for (const std::vector<float>& norm : layer.norms) add(norm);
  }
  add(model.final_norm);
  return fmt::format("{:016x}", hash);
}

}  // namespace polylora
