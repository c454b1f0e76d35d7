#include "model/adapter.h"

namespace polylora {

size_t Adapter::bytes() const {
  size_t total = 0;
  for (const auto& layer : layers_) {
    for (const auto& weight : layer) total += weight ? weight->bytes() : 0;
  }
  for (const auto& layer : gains_) {
    for (const std::vector<float>& gain : layer) total += gain.size() * sizeof(float);
  }
  return total;
}

}  // namespace polylora
