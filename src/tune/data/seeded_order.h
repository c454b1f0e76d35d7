// Random choices about data that are a function of the seed only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace polylora {

/// Independent draws, by number.
class SeededPicks {
 public:
  explicit SeededPicks(int64_t seed, uint64_t stream = 0)
      : key_(static_cast<uint64_t>(seed)), stream_(stream) {}
  double uniform(uint64_t draw) const { return random_uniform(key_, stream_, draw); }
  /// In [0, count); count >= 1.
  size_t below(size_t count, uint64_t draw) const {
    return static_cast<size_t>(uniform(draw) * static_cast<double>(count));
  }

 private:
  uint64_t key_, stream_;
};

/// A permutation of 0..count-1 (Fisher-Yates).
inline std::vector<size_t> seeded_order(size_t count, int64_t seed, uint64_t stream = 1) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  const SeededPicks picks(seed, stream);
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[picks.below(i, i)]);
  return order;
}

}  // namespace polylora
