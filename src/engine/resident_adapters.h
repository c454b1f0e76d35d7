// Which weights leave memory when others need the room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "engine/adapter_budget.h"

namespace polylora {

class AdapterGeneration;

/// The weights that have a name and are in memory, by their last use. Generations that lost their name are
/// left alone: their files may be gone, and they go by themselves with their last request. Guarded by the
/// registry's mutex; only the budget may be read without.
class ResidentAdapters {
 public:
  ResidentAdapters(size_t max_bytes, int max_count)
      : budget_(std::make_shared<AdapterBudget>(max_bytes, max_count)) {}

  /// Evicts the least recently used that nobody computes with until `bytes` fit, and `last_to_evict` (may be
  /// null) only after all others; empty when what remains is in use.
  std::optional<AdapterBudget::Reservation> reserve(size_t bytes, const AdapterGeneration* last_to_evict);

  /// It was used, loaded or published just now.
  void touch(AdapterGeneration& generation);
  /// It has no name any more.
  void forget(const AdapterGeneration& generation);

  const AdapterBudget& budget() const { return *budget_; }

 private:
  AdapterGeneration* least_recently_used(const AdapterGeneration* last_choice) const;

  const std::shared_ptr<AdapterBudget> budget_;
  uint64_t uses_ = 0;                              // clock of last_used
  std::map<uint64_t, AdapterGeneration*> by_use_;  // last_used -> published and resident
};

}  // namespace polylora
