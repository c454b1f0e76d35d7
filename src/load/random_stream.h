// A sequence of random numbers that is a pure function of (key, stream): what a load run sends depends on its
// seed only. Satisfies UniformRandomBitGenerator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace polylora {

class RandomStream {
 public:
  using result_type = uint64_t;

  RandomStream(uint64_t key, uint64_t stream) : key_(key), stream_(stream) {}

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  uint64_t operator()() { return random_bits(key_, stream_, counter_++); }

  /// In [0, 1).
  double uniform() { return random_uniform(key_, stream_, counter_++); }
  /// In [low, high], both included; low <= high.
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(uniform() * static_cast<double>(high - low + 1));
  }
  /// In [0, count); count > 0.
  size_t below(size_t count) { return static_cast<size_t>(between(0, static_cast<int64_t>(count) - 1)); }

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  uint64_t key_;
  uint64_t stream_;
  uint64_t counter_ = 0;
};

}  // namespace polylora
