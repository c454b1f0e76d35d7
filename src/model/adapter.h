// A LoRA adapter as the forward pass uses it.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "model/weights.h"
#include "ops/weight.h"

namespace polylora {

/// The packed pairs of one adapter for every layer and fused linear. Immutable after loading; shared between
/// threads by whoever holds a lease on it.
class Adapter {
 public:
  explicit Adapter(int layers) : layers_(static_cast<size_t>(layers)) {}

  /// Null where the adapter does not touch that linear.
  const LoraWeight* weight(int layer, Site site) const {
    return layers_[static_cast<size_t>(layer)][static_cast<size_t>(site)].get();
  }
  void set(int layer, Site site, std::unique_ptr<LoraWeight> weight) {
    layers_[static_cast<size_t>(layer)][static_cast<size_t>(site)] = std::move(weight);
  }

  size_t bytes() const;

 private:
  std::vector<std::array<std::unique_ptr<LoraWeight>, kSiteCount>> layers_;
};

}  // namespace polylora
