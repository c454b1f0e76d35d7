#include "grammar/configurations.h"

#include <algorithm>

namespace polylora::grammar {
namespace {

uint64_t packed(uint32_t high, uint32_t low) {
  return uint64_t{high} << 32 | low;
}

constexpr size_t kFrameBytes = 64;  // with what the map needs for it

}  // namespace

Configurations::Configurations(const Automaton& automaton) : automaton_(automaton), frames_(1) {
  intern({});  // kDead
  std::ranges::fill(table_, kDead);
  reach({automaton_.rule(0).start, 0});
  start_ = close();
}

Configurations::Id Configurations::find_next(Id from, uint8_t byte) {
  if (full()) return kUnknown;
  for (const Item& item : entries_[from].items) {
    for (const Arc& arc : automaton_.arcs(item.state)) {
      const bool reads = arc.kind == Arc::Kind::kBytes && arc.first <= byte && byte <= arc.last;
      if (reads) reach({arc.to, item.stack});
    }
  }
  const Id next = close();
  table_[from * automaton_.class_count() + automaton_.byte_class(byte)] = next;
  return next;
}

void Configurations::reach(Item item) {
  if (known_.insert(packed(item.state, item.stack)).second) reached_.push_back(item);
}

Configurations::Id Configurations::close() {
  Entry entry;
  for (size_t i = 0; i < reached_.size() && reached_.size() <= kMaxItems; ++i) {
    const Item item = reached_[i];
    if (automaton_.reads(item.state)) entry.items.push_back(item);
    if (automaton_.is_end(item.state)) {
      if (item.stack == 0) {
        entry.may_end = true;
      } else {
        reach({frames_[item.stack].return_to, frames_[item.stack].below});
      }
    }
    for (const Arc& arc : automaton_.arcs(item.state)) {
      if (arc.kind == Arc::Kind::kNothing) reach({arc.to, item.stack});
      if (arc.kind != Arc::Kind::kCall) continue;
      // What a rule calls last returns to where the rule itself would: the stack does not grow.
      const bool last = automaton_.is_end(arc.to);
      if (!last && frames_[item.stack].depth == kMaxDepth) continue;
      reach({automaton_.rule(arc.rule).start, last ? item.stack : push(arc.to, item.stack)});
    }
  }
  const bool too_many = reached_.size() > kMaxItems;
  reached_.clear();
  known_.clear();
  return too_many ? kDead : intern(std::move(entry));
}

Configurations::Id Configurations::intern(Entry entry) {
  std::ranges::sort(entry.items);
  if (entry.items.empty() && !entry.may_end && !entries_.empty()) return kDead;
  const auto next = static_cast<Id>(entries_.size());
  const auto [found, added] = entry_numbers_.try_emplace({entry.items, entry.may_end}, next);
  if (!added) return found->second;
  bytes_ += 2 * entry.items.size() * sizeof(Item) + automaton_.class_count() * sizeof(Id) + sizeof(Entry) +
            kFrameBytes;
  table_.resize(table_.size() + automaton_.class_count(), kUnknown);
  entries_.push_back(std::move(entry));
  return next;
}

Configurations::Stack Configurations::push(uint32_t return_to, Stack below) {
  const auto next = static_cast<Stack>(frames_.size());
  const auto [found, added] = frame_numbers_.try_emplace(packed(return_to, below), next);
  if (!added) return found->second;
  bytes_ += kFrameBytes;
  frames_.push_back({return_to, below, frames_[below].depth + 1});
  return next;
}

Configurations::Id Configurations::import(const Configurations& other, Id id) {
  Entry entry = other.entries_[id];
  for (Item& item : entry.items) {
    std::vector<uint32_t> returns;
    for (Stack stack = item.stack; stack != 0; stack = other.frames_[stack].below)
      returns.push_back(other.frames_[stack].return_to);
    item.stack = 0;
    for (auto at = returns.rbegin(); at != returns.rend(); ++at) item.stack = push(*at, item.stack);
  }
  return intern(std::move(entry));
}

}  // namespace polylora::grammar
