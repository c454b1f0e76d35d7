// Which name means which generation.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

#include "engine/request.h"

namespace polylora {

/// Sets `published` of the generations that it holds. Guarded by the registry's mutex.
class AdapterNames {
 public:
  /// Null when the name is unknown.
  AdapterLease find(const std::string& name) const;

  /// From here on its name means `generation`; gives back what it meant before, or null. A name keeps its
  /// place in the order when what it means changes.
  AdapterLease publish(AdapterLease generation);

  /// Removes the name; gives back what it meant, or null.
  AdapterLease withdraw(const std::string& name);

  /// By place: in order of registration.
  const std::map<uint64_t, AdapterLease>& in_order() const { return generations_; }

 private:
  std::unordered_map<std::string, uint64_t> places_;
  std::map<uint64_t, AdapterLease> generations_;  // by place
  uint64_t places_used_ = 0;
};

}  // namespace polylora
