// Work items handed out one by one to whichever thread is free: a thread that loses its CPU for a while (the
// machine may be shared) then holds up one item, not half of the op.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

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

/// The same for items that lie one after the other in memory: every member walks a stretch of its own from
/// the front, so that what it asks the memory for ahead of time is what it needs next, and then takes from
/// the back of the others' stretches.
class StretchQueue {
 public:
  explicit StretchQueue(int members) : stretches_(static_cast<size_t>(members)) {}

  /// Call before the parallel region begins. At most 2^31 items.
  void reset(int64_t count) {
    const auto members = static_cast<int64_t>(stretches_.size());
    for (int64_t m = 0; m < members; ++m) {
      const Range share{static_cast<int32_t>(count * m / members),
                        static_cast<int32_t>(count * (m + 1) / members)};
      stretches_[static_cast<size_t>(m)].range.store(share, std::memory_order_relaxed);
    }
  }

  /// Calls body(item) for items until none is left. Every member of the region calls it.
  template <typename Body>
  void drain(int member, Body&& body) {
    const size_t own = static_cast<size_t>(member);
    while (const auto item = take(own, true)) body(*item);
    for (size_t i = 1; i < stretches_.size(); ++i) {
      while (const auto item = take((own + i) % stretches_.size(), false)) body(*item);
    }
  }

 private:
  struct alignas(8) Range {  // exchanged as one word
    int32_t begin = 0;
    int32_t end = 0;
  };
  struct alignas(64) Stretch {
    std::atomic<Range> range;
  };

  std::optional<int64_t> take(size_t stretch, bool from_front) {
    std::atomic<Range>& range = stretches_[stretch].range;
    Range seen = range.load(std::memory_order_relaxed);
    while (seen.begin < seen.end) {
      const Range rest = from_front ? Range{seen.begin + 1, seen.end} : Range{seen.begin, seen.end - 1};
      if (range.compare_exchange_weak(seen, rest, std::memory_order_relaxed))
        return from_front ? seen.begin : rest.end;
    }
    return std::nullopt;
  }

  std::vector<Stretch> stretches_;
};

}  // namespace polylora::cpu
