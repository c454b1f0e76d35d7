#include "grammar/code_points.h"

#include <algorithm>

namespace polylora::grammar {
namespace {

constexpr char32_t kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF, kLast = 0x10FFFF;

}  // namespace

CodePointSet::CodePointSet(std::initializer_list<Range> ranges) {
  for (const auto& [first, last] : ranges) add(first, last);
}

CodePointSet CodePointSet::all() {
  return {{0, kLast}};
}

void CodePointSet::add(char32_t first, char32_t last) {
  if (first <= kLastSurrogate && last >= kFirstSurrogate) {
    if (first < kFirstSurrogate) add(first, kFirstSurrogate - 1);
    if (last > kLastSurrogate) add(kLastSurrogate + 1, last);
    return;
  }
  // Ranges that touch the new one become part of it.
  const auto begin = std::ranges::find_if(ranges_, [=](const Range& r) { return r.second + 1 >= first; });
  const auto end = std::find_if(begin, ranges_.end(), [=](const Range& r) { return r.first > last + 1; });
  if (begin != end) {
    first = std::min(first, begin->first);
    last = std::max(last, std::prev(end)->second);
  }
  ranges_.insert(ranges_.erase(begin, end), {first, last});
}

void CodePointSet::add(const CodePointSet& other) {
  for (const auto& [first, last] : other.ranges_) add(first, last);
}

CodePointSet CodePointSet::complement() const {
  CodePointSet result;
  char32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) result.add(next, first - 1);
    next = last + 1;
  }
  if (next <= kLast) result.add(next, kLast);
  return result;
}

CodePointSet CodePointSet::without(const CodePointSet& other) const {
  CodePointSet outside = complement();
  outside.add(other);
  return outside.complement();
}

bool CodePointSet::contains(char32_t code_point) const {
  return std::ranges::any_of(ranges_,
                             [=](const Range& r) { return r.first <= code_point && code_point <= r.second; });
}

}  // namespace polylora::grammar
