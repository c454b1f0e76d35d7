#include "grammar/regex_grammar.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora::grammar {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr int kMaxDepth = 100;
constexpr size_t kMaxRepetitions = 100'000;

const CodePointSet& digits() {
  static const CodePointSet set = {{'0', '9'}};
  return set;
}

const CodePointSet& word_characters() {
  static const CodePointSet set = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  return set;
}

const CodePointSet& spaces() {
  static const CodePointSet set = {{'\t', '\r'}, {' ', ' '}};
  return set;
}

class RegexParser {
 public:
  RegexParser(std::u32string pattern, RegexMatch match, TextForm form)
      : pattern_(std::move(pattern)), form_(form), search_(match == RegexMatch::kAnywhere) {}

  Expr parse() {
    std::vector<Expr> alternatives;
    do alternatives.push_back(anchored_alternative());
    while (take('|'));
    if (!at_end()) refuse("unbalanced )");
    return any_of(std::move(alternatives));
  }

 private:
  // --- reading

  bool at_end() const { return position_ == pattern_.size(); }
  char32_t peek(size_t ahead = 0) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : U'\0';
  }
  bool take(char32_t c) {
    if (at_end() || peek() != c) return false;
    ++position_;
    return true;
  }
  bool take(std::u32string_view text) {
    if (pattern_.compare(position_, text.size(), text) != 0) return false;
    position_ += text.size();
    return true;
  }
  char32_t next() {
    if (at_end()) refuse("it ends too early");
    return pattern_[position_++];
  }
  [[noreturn]] void refuse(std::string_view why) const {
    fail(ErrorCode::kInvalidArgument, "the regular expression is not supported at character {}: {}",
         position_, why);
  }

  // --- structure

  Expr anything() const { return repeat(spelled(CodePointSet::all(), form_), 0); }

  Expr anchored_alternative() {
    const bool from_start = take('^') || take(U"\\A") || !search_;
    Expr inner = alternative();
    const bool to_end = take('$') || take(U"\\Z") || take(U"\\z") || !search_;
    std::vector<Expr> parts;
    if (!from_start) parts.push_back(anything());
    parts.push_back(std::move(inner));
    if (!to_end) parts.push_back(anything());
    return sequence(std::move(parts));
  }

  Expr alternative() {
    std::vector<Expr> parts;
    while (!at_end() && peek() != '|' && peek() != ')' && !at_closing_anchor()) parts.push_back(quantified());
    return sequence(std::move(parts));
  }

  /// A $ that ends one of the outermost alternatives.
  bool at_closing_anchor() const {
    if (depth_ > 0) return false;
    const bool escaped = peek() == '\\' && (peek(1) == 'Z' || peek(1) == 'z');
    if (peek() != '$' && !escaped) return false;
    const size_t after = position_ + (escaped ? 2 : 1);
    return after == pattern_.size() || pattern_[after] == '|';
  }

  Expr quantified() {
    Expr part = atom();
    const std::optional<Bounds> bounds = take_quantifier();
    if (!bounds) return part;
    take('?');  // lazy: the same texts match
    if (!at_end() && peek() == '+') refuse("possessive quantifiers");
    if (take_quantifier()) refuse("a quantifier of a quantifier");
    return repeat(std::move(part), bounds->min, bounds->max);
  }

  struct Bounds {
    size_t min = 0;
    std::optional<size_t> max;
  };

  std::optional<Bounds> take_quantifier() {
    if (take('*')) return Bounds{};
    if (take('+')) return Bounds{.min = 1, .max = {}};
    if (take('?')) return Bounds{.min = 0, .max = 1};
    return take_bounds();
  }

  /// {m}, {m,}, {,n} or {m,n}; anything else is text.
  std::optional<Bounds> take_bounds() {
    const size_t begin = position_;
    if (!take('{')) return std::nullopt;
    const std::optional<size_t> low = take_number();
    const bool comma = take(',');
    const std::optional<size_t> high = comma ? take_number() : low;
    if (!take('}') || (!low && !high)) {
      position_ = begin;
      return std::nullopt;
    }
    if (high && *high < low.value_or(0)) refuse("a quantifier whose bounds are out of order");
    return Bounds{.min = low.value_or(0), .max = high};
  }

  std::optional<size_t> take_number() {
    std::optional<size_t> number;
    while (!at_end() && peek() >= '0' && peek() <= '9') {
      number = number.value_or(0) * 10 + (next() - '0');
      if (*number > kMaxRepetitions) refuse("a quantifier of more than 100000");
    }
    return number;
  }

  Expr atom() {
    const char32_t c = next();
    switch (c) {
      case '(':
        return group();
      case '[':
        return spelled(bracketed(), form_);
      case '.':
        return spelled(CodePointSet{{'\n', '\n'}}.complement(), form_);
      case '\\':
        return spelled(escape(false), form_);
      case '^':
      case '$':
        refuse("an anchor that is not at the start or end of the pattern");
      case '*':
      case '+':
      case '?':
        refuse("a quantifier without anything to repeat");
      default:
        return spelled({{c, c}}, form_);
    }
  }

  Expr group() {
    if (take('?')) {
      if (take('P') || (peek() == '<' && peek(1) != '=' && peek(1) != '!')) {
        if (!take('<')) refuse("back references");
        while (next() != '>') {
        }
      } else if (!take(':')) {
        refuse("look-around or inline flags");
      }
    }
    if (++depth_ > kMaxDepth) refuse("groups nested deeper than 100");
    std::vector<Expr> alternatives;
    do alternatives.push_back(alternative());
    while (take('|'));
    if (!take(')')) refuse("a group without its )");
    --depth_;
    return any_of(std::move(alternatives));
  }

  // --- characters

  CodePointSet bracketed() {
    const bool negated = take('^');
    CodePointSet set;
    for (bool first = true; first || !take(']'); first = false) {
      if (peek() == '[' && peek(1) == ':') refuse("POSIX classes");
      char32_t low = next();
      if (low == '\\') {
        const CodePointSet escaped = escape(true);
        const bool single =
            escaped.ranges().size() == 1 && escaped.ranges().front().first == escaped.ranges().front().second;
        if (!single) {
          set.add(escaped);
          continue;
        }
        low = escaped.ranges().front().first;
      }
      char32_t high = low;
      if (!at_end() && peek() == '-' && position_ + 1 < pattern_.size() && peek(1) != ']') {
        ++position_;
        high = next();
        if (high == '\\') {
          const CodePointSet escaped = escape(true);
          if (escaped.ranges().size() != 1) refuse("a range that ends in a class");
          high = escaped.ranges().front().first;
        }
      }
      if (high < low) refuse("a range out of order");
      set.add(low, high);
    }
    return negated ? set.complement() : set;
  }

  CodePointSet escape(bool in_class) {
    const char32_t c = next();
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return digits().complement();
      case 'w':
        return word_characters();
      case 'W':
        return word_characters().complement();
      case 's':
        return spaces();
      case 'S':
        return spaces().complement();
      case 'n':
        return {{'\n', '\n'}};
      case 'r':
        return {{'\r', '\r'}};
      case 't':
        return {{'\t', '\t'}};
      case 'f':
        return {{'\f', '\f'}};
      case 'v':
        return {{'\v', '\v'}};
      case '0':
        return {{0, 0}};
      case 'x':
        return hexadecimal(2);
      case 'u':
        return peek() == '{' ? braced_hexadecimal() : hexadecimal(4);
      default:
        break;
    }
    if (in_class && c == 'b') return {{'\b', '\b'}};
    if (c == 'b' || c == 'B') refuse("word boundaries");
    if (c == 'p' || c == 'P') refuse("Unicode properties");
    if (c >= '1' && c <= '9') refuse("back references");
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) refuse("an unknown escape");
    return {{c, c}};
  }

  CodePointSet hexadecimal(int count) {
    char32_t value = 0;
    for (int i = 0; i < count; ++i) value = value * 16 + hex_digit();
    return {{value, value}};
  }

  CodePointSet braced_hexadecimal() {
    take('{');
    char32_t value = 0;
    do value = value * 16 + hex_digit();
    while (peek() != '}' && value <= 0x10FFFF);
    if (!take('}') || value > 0x10FFFF) refuse("a code point beyond Unicode");
    return {{value, value}};
  }

  char32_t hex_digit() {
    const char32_t c = next();
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    refuse("a hexadecimal digit was expected");
  }

  const std::u32string pattern_;
  const TextForm form_;
  const bool search_;
  size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace

Expr regex_expression(std::string_view pattern, RegexMatch match, TextForm form) {
  if (pattern.size() > kMaxPatternBytes)
    fail(ErrorCode::kInvalidArgument, "the regular expression has {} bytes; at most {} are supported",
         pattern.size(), kMaxPatternBytes);
  const std::string valid = to_valid_utf8(pattern);
  std::u32string code_points;
  for (size_t at = 0; at < valid.size();) code_points += next_code_point(valid, at);
  return RegexParser(std::move(code_points), match, form).parse();
}

}  // namespace polylora::grammar
