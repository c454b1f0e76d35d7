#include "base/rng.h"

namespace polylora {

__extension__ using Uint128 = unsigned __int128;

uint64_t random_bits(uint64_t key, uint64_t stream, uint64_t counter) {
  constexpr uint64_t kMultiplier = 0xD2B74407B1CE6E93ull;
  constexpr uint64_t kWeyl = 0x9E3779B97F4A7C15ull;
  uint64_t low = counter, high = stream;
  for (int round = 0; round < 10; ++round, key += kWeyl) {
    const auto product = static_cast<Uint128>(kMultiplier) * low;
    low = static_cast<uint64_t>(product >> 64) ^ key ^ high;
    high = static_cast<uint64_t>(product);
  }
  return low;
}

}  // namespace polylora
