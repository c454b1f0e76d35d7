#include "model/adapter.h"

#include "base/error.h"

namespace polylora {

Adapter::Adapter(const ModelConfig& config)
    : layers_(static_cast<size_t>(config.num_layers)), terms_{{this, 1.0f}} {
  for (auto& layer : layers_) layer.resize(site_count(config));
}

Adapter::Adapter(const std::vector<std::pair<std::shared_ptr<const Adapter>, float>>& members) {
  for (const auto& [member, factor] : members) {
    check(member->stackable(), "a stack's members are plain adapters of LoRA pairs");
    members_.push_back(member);
    terms_.push_back({member.get(), factor});
  }
}

bool Adapter::stackable() const {
  return members_.empty() && gains_.empty() && embedding_.full == nullptr && lm_head_.full == nullptr;
}

void Adapter::set_columns(int layer, Site site, std::vector<float> gain, std::vector<float> shift) {
  const auto make_room = [this](BySite<std::vector<float>>& columns) {
    if (columns.empty()) columns.assign(layers_.size(), std::vector<std::vector<float>>(layers_[0].size()));
  };
  make_room(gains_);
  at(gains_, layer, site) = std::move(gain);
  if (shift.empty()) return;
  make_room(shifts_);
  at(shifts_, layer, site) = std::move(shift);
}

size_t Adapter::bytes() const {
  size_t total = 0;
  const auto add = [&](const auto& owned) { total += owned != nullptr ? owned->bytes() : 0; };
  for (const auto& layer : layers_) {
    for (const auto& weight : layer) add(weight);
  }
  for (const auto* columns : {&gains_, &shifts_}) {
    for (const auto& layer : *columns) {
      for (const std::vector<float>& values : layer) total += values.size() * sizeof(float);
    }
  }
  add(embedding_.full);
  add(embedding_.a);
  add(embedding_.b);
  add(lm_head_.full);
  add(lm_head_.lora);
  return total;
}

}  // namespace polylora
