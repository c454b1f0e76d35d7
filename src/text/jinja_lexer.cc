#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

/// All newlines become \n and one at the very end goes, as Jinja's default.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

std::string_view strip_right(std::string_view text) {
  size_t end = 0;
  for (size_t pos = 0; pos < text.size();) {
    if (!is_python_space(next_code_point(text, pos))) end = pos;
  }
  return text.substr(0, end);
}

bool all_space(std::string_view text) {
  return strip_right(text).empty();
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)), src_(text_) {}

  std::vector<Token> run() {
    while (pos_ < src_.size()) root();
    add(TokenType::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void error(std::string_view what) const {
    fail(ErrorCode::kDataCorrupt, "chat template, line {}: {}", line_, what);
  }

  void add(TokenType type, std::string value) { tokens_.push_back({type, std::move(value), line_}); }

  bool at(std::string_view s) const { return src_.substr(pos_).starts_with(s); }

  void advance(size_t n) {
    line_ += static_cast<int>(std::count(src_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         src_.begin() + static_cast<std::ptrdiff_t>(pos_ + n), '\n'));
    pos_ += n;
  }

  void skip_space() {
    while (pos_ < src_.size()) {
      size_t next = pos_;
      if (!is_python_space(next_code_point(src_, next))) return;
      advance(next - pos_);
    }
  }

  size_t find_tag() const {
    size_t at = pos_;
    while ((at = src_.find('{', at)) != std::string_view::npos) {
      const char next = at + 1 < src_.size() ? src_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
      ++at;
    }
    return std::string_view::npos;
  }

  /// The text before a tag, less what the tag's '-' or lstrip_blocks takes.
  std::string_view before_tag(std::string_view text, char sign, bool variable) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_start == 0 && !line_starting_) return text;
    return all_space(text.substr(line_start)) ? text.substr(0, line_start) : text;
  }

  char sign_at(size_t pos) const {
    return pos < src_.size() && (src_[pos] == '-' || src_[pos] == '+') ? src_[pos] : '\0';
  }

  void root() {
    const size_t tag = find_tag();
    if (tag == std::string_view::npos) {
      add(TokenType::kText, std::string(src_.substr(pos_)));
      advance(src_.size() - pos_);
      return;
    }
    const char kind = src_[tag + 1];
    const char sign = sign_at(tag + 2);
    const std::string_view text = before_tag(src_.substr(pos_, tag - pos_), sign, kind == '{');
    if (!text.empty()) add(TokenType::kText, std::string(text));
    advance(tag + 2 + (sign != '\0' ? 1 : 0) - pos_);
    if (kind == '#') {
      comment();
    } else if (kind == '{') {
      add(TokenType::kVariableBegin, {});
      inside("}}", TokenType::kVariableEnd);
    } else if (!raw()) {
      add(TokenType::kBlockBegin, {});
      inside("%}", TokenType::kBlockEnd);
    }
  }

  void comment() {
    const size_t end = src_.find("#}", pos_);
    if (end == std::string_view::npos) error("a comment is not closed with '#}'");
    const char sign = end > pos_ ? src_[end - 1] : '\0';
    advance(end + 2 - pos_);
    after_tag(sign);
  }

  /// After a block or comment: '-' takes all white space, '+' nothing, otherwise trim_blocks takes one
  /// newline.
  void after_tag(char sign) {
    const size_t begin = pos_;
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && at("\n")) {
      advance(1);
    }
    line_starting_ = pos_ > begin && src_[pos_ - 1] == '\n';
  }

  /// At "raw %}" (after the tag's opening): passes everything up to {% endraw %} as text.
  bool raw() {
    const size_t start = pos_;
    const int start_line = line_;
    skip_space();
    const bool named = at("raw");
    if (named) {
      advance(3);
      skip_space();
    }
    if (!named || !(at("-%}") || at("%}"))) {
      pos_ = start;
      line_ = start_line;
      return false;
    }
    const char sign = at("-") ? '-' : '+';  // no newline is trimmed after {% raw %}
    advance(sign == '-' ? 3 : 2);
    after_tag(sign);
    raw_content(start_line);
    return true;
  }

  void raw_content(int start_line) {
    for (size_t tag = pos_; (tag = src_.find("{%", tag)) != std::string_view::npos; tag += 2) {
      size_t p = tag + 2;
      const char sign = sign_at(p);
      if (sign != '\0') ++p;
      const auto skip = [&] {
        while (p < src_.size() && is_python_space(static_cast<uint8_t>(src_[p]))) ++p;
      };
      skip();
      if (!src_.substr(p).starts_with("endraw")) continue;
      p += 6;
      skip();
      const char end_sign = sign_at(p);
      if (end_sign != '\0') ++p;
      if (!src_.substr(p).starts_with("%}")) continue;
      add(TokenType::kText, std::string(before_tag(src_.substr(pos_, tag - pos_), sign, false)));
      advance(p + 2 - pos_);
      after_tag(end_sign);
      return;
    }
    line_ = start_line;
    error("{% raw %} is not closed with {% endraw %}");
  }

  /// Tokens of an expression or statement up to its closing delimiter.
  void inside(std::string_view close, TokenType end_type) {
    const int start_line = line_;
    std::vector<char> open;
    while (true) {
      skip_space();
      if (pos_ >= src_.size()) {
        line_ = start_line;
        error(fmt::format("a tag is not closed with '{}'", close));
      }
      if (open.empty() && close_tag(close, end_type)) return;
      const char c = src_[pos_];
      const auto byte = static_cast<uint8_t>(c);
      if (c == '\'' || c == '"') {
        string_literal(c);
      } else if (c >= '0' && c <= '9') {
        number();
      } else if (byte >= 0x80 || is_word_char(byte)) {
        name();
      } else {
        operator_token(open);
      }
    }
  }

  bool close_tag(std::string_view close, TokenType type) {
    const bool block = type == TokenType::kBlockEnd;
    const char sign = at("-") || (block && at("+")) ? src_[pos_] : '\0';
    const size_t skip = sign == '\0' ? 0 : 1;
    if (!src_.substr(pos_ + skip).starts_with(close)) return false;
    add(type, {});
    advance(skip + close.size());
    after_tag(block || sign == '-' ? sign : '+');  // variables trim no newline
    return true;
  }

  void name() {
    const size_t begin = pos_;
    size_t p = pos_;
    while (p < src_.size()) {
      size_t next = p;
      if (!is_word_char(next_code_point(src_, next))) break;
      p = next;
    }
    if (p == begin) error("unexpected character in a tag");
    add(TokenType::kName, std::string(src_.substr(begin, p - begin)));
    pos_ = p;
  }

  void number() {
    const auto digit = [&](size_t i) { return i < src_.size() && src_[i] >= '0' && src_[i] <= '9'; };
    size_t p = pos_;
    const auto digits = [&] {
      while (digit(p) || (p < src_.size() && src_[p] == '_' && digit(p + 1))) ++p;
    };
    TokenType type = TokenType::kInteger;
    if (src_[p] == '0' && p + 1 < src_.size() &&
        std::string_view("xXoObB").find(src_[p + 1]) != std::string_view::npos) {
      p += 2;
      while (p < src_.size() && (is_word_char(static_cast<uint8_t>(src_[p])))) ++p;
    } else {
      digits();
      if (p < src_.size() && src_[p] == '.' && digit(p + 1)) {
        type = TokenType::kFloat;
        ++p;
        digits();
      }
      const bool signed_exponent = p + 1 < src_.size() && (src_[p + 1] == '-' || src_[p + 1] == '+');
      if (p < src_.size() && (src_[p] == 'e' || src_[p] == 'E') && digit(p + (signed_exponent ? 2 : 1))) {
        type = TokenType::kFloat;
        p += signed_exponent ? 2 : 1;
        digits();
      }
    }
    std::string value(src_.substr(pos_, p - pos_));
    std::erase(value, '_');
    add(type, std::move(value));
    pos_ = p;
  }

  void operator_token(std::vector<char>& open) {
    static constexpr std::array<std::string_view, 25> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
    for (const std::string_view op : kOperators) {
      if (!at(op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) error(fmt::format("unexpected '{}'", c));
        open.pop_back();
      }
      add(TokenType::kOperator, std::string(op));
      advance(op.size());
      return;
    }
    error(fmt::format("unexpected character '{}'", src_[pos_]));
  }

  void string_literal(char quote) {
    size_t p = pos_ + 1;
    while (p < src_.size() && src_[p] != quote) p += src_[p] == '\\' ? 2 : 1;
    if (p >= src_.size()) error("a string is not closed");
    add(TokenType::kString, unescape(src_.substr(pos_ + 1, p - pos_ - 1)));
    advance(p + 1 - pos_);
  }

  /// Python's escapes; an unknown one keeps its backslash.
  std::string unescape(std::string_view s) const {
    static constexpr std::string_view kFrom = "nrtabfv\\'\"", kTo = "\n\r\t\a\b\f\v\\'\"";
    std::string out;
    for (size_t i = 0; i < s.size(); ++i) {
      if (s[i] != '\\' || i + 1 >= s.size()) {
        out += s[i];
        continue;
      }
      const char c = s[++i];
      const size_t simple = kFrom.find(c);
      if (c == '\n') continue;
      if (c >= '0' && c <= '7') {
        i += append_coded(out, s, i, 3, 8) - 1;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        i += append_coded(out, s, i + 1, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16);
      } else if (simple != std::string_view::npos) {
        out += kTo[simple];
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  /// Appends the character coded by up to `max` digits (exactly `max` for hexadecimal); returns the digits
  /// used.
  size_t append_coded(std::string& out, std::string_view s, size_t at, size_t max, uint32_t base) const {
    uint64_t code = 0;
    size_t n = 0;
    for (; n < max && at + n < s.size(); ++n) {
      const char c = s[at + n];
      const uint32_t d = c >= '0' && c <= '9'   ? static_cast<uint32_t>(c - '0')
                         : c >= 'a' && c <= 'f' ? static_cast<uint32_t>(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? static_cast<uint32_t>(c - 'A' + 10)
                                                : 99;
      if (d >= base) break;
      code = code * base + d;
    }
    if (base == 16 && n != max) error("truncated escape in a string");
    if (code > 0x10FFFF) error("illegal Unicode character in a string");
    append_utf8(out, static_cast<char32_t>(code));
    return n;
  }

  std::string text_;
  std::string_view src_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (source.size() > (size_t{16} << 20)) {
    fail(ErrorCode::kResourceExhausted, "chat template of {} bytes (limit: 16 MiB)", source.size());
  }
  return Lexer(to_valid_utf8(source)).run();
}

}  // namespace polylora::jinja
