// A LoRA adapter as the forward pass uses it.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <utility>
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

  /// DoRA: what each output column is multiplied with after the pairs were added, magnitude over norm, and 1
  /// for modules without DoRA. Empty: none of the site has it.
  std::span<const float> gain(int layer, Site site) const {
    return gains_.empty() ? std::span<const float>()
                          : gains_[static_cast<size_t>(layer)][static_cast<size_t>(site)];
  }
  void set_gain(int layer, Site site, std::vector<float> gain) {
    gains_.resize(layers_.size());
    gains_[static_cast<size_t>(layer)][static_cast<size_t>(site)] = std::move(gain);
  }

  size_t bytes() const;

 private:
  std::vector<std::array<std::unique_ptr<LoraWeight>, kSiteCount>> layers_;
  std::vector<std::array<std::vector<float>, kSiteCount>> gains_;  // empty without DoRA
};

}  // namespace polylora
