// Where an automaton can be after some bytes: built as it is asked for, then a table look-up per byte.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "grammar/automaton.h"

namespace polylora::grammar {

/// A configuration is a set of (state, stack) pairs: every way in which the bytes so far can be read. Equal
/// configurations have one number. Which bytes a configuration allows is a property of the grammar alone,
/// never of what was asked for before. Not thread-safe.
class Configurations {
 public:
  using Id = uint32_t;
  static constexpr Id kDead = 0;  // no way to read the bytes

  /// `automaton` must outlive this.
  explicit Configurations(const Automaton& automaton);

  Id start() const { return start_; }

  /// After one more byte. A byte that leads to deeper nesting, or to more ways of reading than kMaxItems, is
  /// not allowed. kUnknown when it was not asked for before and full().
  Id next(Id from, uint8_t byte) {
    const Id known = table_[from * automaton_.class_count() + automaton_.byte_class(byte)];
    return known != kUnknown ? known : find_next(from, byte);
  }
  static constexpr Id kUnknown = ~Id{0};

  bool may_end(Id id) const { return entries_[id].may_end; }
  /// The bytes so far are a whole text, and nothing may follow.
  bool must_end(Id id) const { return entries_[id].may_end && entries_[id].items.empty(); }

  /// The number here of a configuration of `other`, which belongs to the same automaton.
  Id import(const Configurations& other, Id id);

  /// Nothing more is added: its owner starts afresh.
  bool full() const { return bytes_ > kMaxBytes; }
  size_t bytes() const { return bytes_; }

  static constexpr size_t kMaxItems = 1024;   // of one configuration, and of the way there
  static constexpr uint32_t kMaxDepth = 200;  // of the stack
  static constexpr size_t kMaxBytes = size_t{8} << 20;

 private:
  using Stack = uint32_t;  // a number; 0: empty
  struct Frame {
    uint32_t return_to = 0;
    Stack below = 0;
    uint32_t depth = 0;
  };
  struct Item {
    uint32_t state = 0;
    Stack stack = 0;
    auto operator<=>(const Item&) const = default;
  };
  struct Entry {
    std::vector<Item> items;  // sorted; only states that read
    bool may_end = false;
  };

  Id find_next(Id from, uint8_t byte);
  /// The configuration of everything that `seeds_` reach without reading.
  Id close();
  Id intern(Entry entry);
  Stack push(uint32_t return_to, Stack below);
  void reach(Item item);

  const Automaton& automaton_;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, Stack> frame_numbers_;  // by (return_to, below)
  std::vector<Entry> entries_;
  std::map<std::pair<std::vector<Item>, bool>, Id> entry_numbers_;
  std::vector<Id> table_;  // [entry, byte class]
  size_t bytes_ = 0;
  Id start_ = kDead;

  std::vector<Item> reached_;  // of close(), kept for its memory
  std::unordered_set<uint64_t> known_;
};

}  // namespace polylora::grammar
