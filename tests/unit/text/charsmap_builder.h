// Builds SentencePiece's precompiled_charsmap: small ones, without care for their size.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace polylora::testing_text {

/// Every node has 256 units to itself. Every other one is written in the form of offset that large tables
/// need.
class CharsmapBuilder {
 public:
  explicit CharsmapBuilder(const std::map<std::string, std::string>& replacements) {
    nodes_.emplace_back();
    for (const auto& [key, replacement] : replacements) {
      size_t node = 0;
      for (const char c : key) {
        const auto [it, fresh] = nodes_[node].children.try_emplace(static_cast<uint8_t>(c), nodes_.size());
        const size_t child = it->second;
        if (fresh) nodes_.emplace_back();
        node = child;
      }
      nodes_[node].value = static_cast<int64_t>(texts_.size());
      texts_ += replacement + '\0';
    }
    units_.resize(256 * (nodes_.size() + 1));
    place(0, 0);
  }

  std::string bytes() const {
    std::string out = raw(static_cast<uint32_t>(units_.size() * 4));
    for (const uint32_t unit : units_) out += raw(unit);
    return out + texts_;
  }

 private:
  struct Node {
    std::map<uint8_t, size_t> children;
    int64_t value = -1;
  };

  void place(size_t node, uint32_t at) {
    const auto own = static_cast<uint32_t>(256 * (node + 1));
    const bool wide = node % 2 == 1;
    const uint32_t base = wide ? own | (at & 255u) : own;
    const uint32_t offset = base ^ at;
    units_[at] |= wide ? (offset >> 8) << 10 | 1u << 9 : offset << 10;
    if (nodes_[node].value >= 0) {
      units_[at] |= 1u << 8;
      units_[base] = 1u << 31 | static_cast<uint32_t>(nodes_[node].value);
    }
    for (const auto& [byte, child] : nodes_[node].children) {
      units_[base ^ byte] = byte;
      place(child, base ^ byte);
    }
  }

  static std::string raw(uint32_t value) {
    std::string out;
    for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 255u);
    return out;
  }

  std::vector<Node> nodes_;
  std::vector<uint32_t> units_;
  std::string texts_;
};

inline std::string charsmap_bytes(const std::map<std::string, std::string>& replacements) {
  return CharsmapBuilder(replacements).bytes();
}

}  // namespace polylora::testing_text
