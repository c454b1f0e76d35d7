#include "engine/resident_adapters.h"

#include "engine/adapter_generation.h"

namespace polylora {

std::optional<AdapterBudget::Reservation> ResidentAdapters::reserve(size_t bytes,
                                                                    const AdapterGeneration* last_to_evict) {
  for (;;) {
    if (auto reservation = budget_->reserve(bytes)) return reservation;
    AdapterGeneration* victim = least_recently_used(last_to_evict);
    if (victim == nullptr) return std::nullopt;
    forget(*victim);
    victim->weights.reset();
  }
}

AdapterGeneration* ResidentAdapters::least_recently_used(const AdapterGeneration* last_choice) const {
  AdapterGeneration* fallback = nullptr;
  for (const auto& [use, generation] : by_use_) {
    if (generation->weights.use_count() > 1) continue;  // computed with
    if (generation != last_choice) return generation;
    fallback = generation;
  }
  return fallback;
}

void ResidentAdapters::touch(AdapterGeneration& generation) {
  forget(generation);
  generation.last_used = ++uses_;
  if (generation.published && generation.weights != nullptr) by_use_.emplace(uses_, &generation);
}

void ResidentAdapters::forget(const AdapterGeneration& generation) {
  by_use_.erase(generation.last_used);
}

}  // namespace polylora
