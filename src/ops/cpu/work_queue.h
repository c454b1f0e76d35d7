// Work items handed out one by one to whichever thread is free: a thread that loses its CPU for a while (the
// machine may be shared) then holds up one item, not half of the op.
#pragma once

#include <atomic>
#include <cstdint>

namespace polylora::cpu {

class WorkQueue {
 public:
  /// Call before the parallel region begins.
  void reset(int64_t count) {
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
  }

  /// Calls body(item) for items until none is left. Every thread of the region calls it.
  template <typename Body>
  void drain(Body&& body) {
    for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) body(item);
  }

 private:
  alignas(64) std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
};

}  // namespace polylora::cpu
