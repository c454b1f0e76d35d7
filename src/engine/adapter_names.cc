#include "engine/adapter_names.h"

#include <utility>

#include "engine/adapter_generation.h"

namespace polylora {

AdapterLease AdapterNames::find(const std::string& name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : generations_.at(place->second);
}

AdapterLease AdapterNames::publish(AdapterLease generation) {
  const auto [place, is_new] = places_.try_emplace(generation->name, places_used_ + 1);
  if (is_new) ++places_used_;
  generation->published = true;
  AdapterLease before = std::exchange(generations_[place->second], std::move(generation));
  if (before != nullptr) before->published = false;
  return before;
}

AdapterLease AdapterNames::withdraw(const std::string& name) {
  const auto place = places_.find(name);
  if (place == places_.end()) return nullptr;
  const auto generation = generations_.find(place->second);
  AdapterLease withdrawn = std::move(generation->second);
  withdrawn->published = false;
  generations_.erase(generation);
  places_.erase(place);
  return withdrawn;
}

}  // namespace polylora
