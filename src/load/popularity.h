// Which adapter each request of a stress run asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// The distributions that multi-adapter serving is usually measured with (Punica, S-LoRA).
enum class Popularity : uint8_t {
  kOne,        // a single adapter
  kIdentical,  // of many adapters one gets all requests of a round, the next round another one
  kUniform,    // each request draws its adapter
  kZipf,       // the k-th adapter is drawn with a weight of 1/k
  kDistinct,   // adapters take turns: as many different ones at a time as there are requests running
};

std::string_view popularity_name(Popularity popularity);
/// Throws kInvalidArgument naming `flag` and what there is.
Popularity parse_popularity(std::string_view flag, std::string_view name);

/// Indices into `adapters` adapters (at least one) for the requests of a round.
std::vector<size_t> assign_adapters(Popularity popularity, size_t adapters, size_t requests, size_t round,
                                    uint64_t seed);

}  // namespace polylora
