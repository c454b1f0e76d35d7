// The model's vocabulary: token spelling <-> id, in flat memory. Immutable after build(), then thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

class Vocab {
 public:
  Vocab() = default;
  explicit Vocab(const std::vector<std::pair<std::string, int32_t>>& entries);

  /// The id, or -1.
  int32_t find(std::string_view token) const;
  /// The spelling; empty when the id is unknown.
  std::string_view spelling(int32_t id) const;
  bool contains(int32_t id) const;
  /// Highest id + 1.
  int32_t size() const { return static_cast<int32_t>(by_id_.size()); }

 private:
  struct Slot {
    uint32_t offset = 0;
    uint32_t length = 0;
    int32_t id = -1;
    uint32_t hash = 0;
  };
  struct Span {
    uint32_t offset = 0;
    int32_t length = -1;
  };
  std::string arena_;
  std::vector<Slot> slots_;  // open addressing, power of two
  std::vector<Span> by_id_;
};

}  // namespace polylora
