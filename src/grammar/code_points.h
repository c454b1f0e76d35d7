// Sets of Unicode code points: what a character class means.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

namespace polylora::grammar {

/// Sorted, disjoint, closed ranges within U+0000..U+10FFFF; surrogates are never members.
class CodePointSet {
 public:
  using Range = std::pair<char32_t, char32_t>;

  CodePointSet() = default;
  CodePointSet(std::initializer_list<Range> ranges);
  static CodePointSet all();

  void add(char32_t first, char32_t last);
  void add(const CodePointSet& other);
  /// What is not in the set.
  CodePointSet complement() const;
  CodePointSet without(const CodePointSet& other) const;

  bool contains(char32_t code_point) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

}  // namespace polylora::grammar
