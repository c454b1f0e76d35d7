// A grammar as a pushdown automaton over bytes: one nondeterministic automaton per rule, whose arcs read a
// byte, read nothing, or call a rule.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "grammar/expression.h"

namespace polylora::grammar {

/// What a request may make us build. A grammar beyond it is refused.
inline constexpr size_t kMaxStates = 100'000;
inline constexpr size_t kMaxArcs = 400'000;

struct Arc {
  enum class Kind : uint8_t { kBytes, kNothing, kCall };
  uint32_t from = 0, to = 0;
  uint32_t rule = 0;            // kCall
  uint8_t first = 0, last = 0;  // kBytes
  Kind kind = Kind::kNothing;
};

/// Immutable.
class Automaton {
 public:
  struct Rule {
    uint32_t start = 0, end = 0;  // the end has no arcs
  };

  /// Throws kInvalidArgument for a grammar that is too large, that no text matches, or that has a rule which
  /// begins with itself.
  explicit Automaton(const Grammar& grammar);

  const Rule& rule(uint32_t number) const { return rules_[number]; }
  std::span<const Arc> arcs(uint32_t state) const;
  /// A call to here is the last thing its rule does.
  bool is_end(uint32_t state) const { return ends_[state]; }
  bool reads(uint32_t state) const { return reads_[state]; }

  /// Bytes that no arc tells apart have the same class; classes count from 0.
  uint8_t byte_class(uint8_t byte) const { return classes_[byte]; }
  size_t class_count() const { return class_count_; }
  size_t bytes() const { return arcs_.capacity() * sizeof(Arc) + offsets_.capacity() * sizeof(uint32_t); }

 private:
  class Builder;
  void drop_dead_ends(uint32_t state_count);
  void classify_bytes();
  void refuse_left_recursion() const;

  std::vector<Rule> rules_;
  std::vector<Arc> arcs_;          // sorted by `from`
  std::vector<uint32_t> offsets_;  // into arcs_, per state, and one more
  std::vector<bool> ends_, reads_;
  std::array<uint8_t, 256> classes_{};
  size_t class_count_ = 0;
};

}  // namespace polylora::grammar
