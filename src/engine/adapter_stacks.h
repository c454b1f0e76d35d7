// Which stacks of adapters requests have asked for lately.
#pragma once

#include <deque>
#include <span>

#include "engine/adapter_budget.h"
#include "engine/request.h"

namespace polylora {

/// Throws what AdapterRegistry::stack() says, for members that cannot be computed together. With the
/// registry's mutex held.
void check_stack(std::span<const StackTerm> members, const AdapterBudget& budget);

/// Requests for equal stacks get the same generation, so that they share batches and cached prefixes. The
/// least recently used of many stacks is forgotten: one asked for again is another generation then. Guarded
/// by the registry's mutex.
class AdapterStacks {
 public:
  /// The stack of these members, in this order. One whose name is gone is not remembered: its weights go with
  /// its last request.
  AdapterLease get(std::span<const StackTerm> members);

  /// Forgets the stacks that this generation is a member of.
  void forget(const AdapterGeneration& member);

 private:
  std::deque<AdapterLease> recent_;  // the last used last
};

}  // namespace polylora
