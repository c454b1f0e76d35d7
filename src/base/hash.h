// Content hashes (XXH3-64): adapter generations and KV prefix blocks. Not cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace polylora {

uint64_t hash_bytes(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace polylora
