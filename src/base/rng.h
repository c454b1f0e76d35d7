// Counter-based random numbers: a value is a pure function of (key, stream, counter), so that what a request
// samples or a dropout mask hides never depends on batching, threads or recomputation.
#pragma once

#include <cstdint>

namespace polylora {

/// Philox-2x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
uint64_t random_bits(uint64_t key, uint64_t stream, uint64_t counter);

/// Uniform in [0, 1) with 53 bits.
inline double random_uniform(uint64_t key, uint64_t stream, uint64_t counter) {
  return static_cast<double>(random_bits(key, stream, counter) >> 11) * 0x1p-53;
}

}  // namespace polylora
