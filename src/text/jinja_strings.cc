// Text helpers that filters and methods share.
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace polylora::jinja {

const std::string& expect_string(const Value& value, std::string_view what) {
  if (value.is_undefined()) template_error("{}", value.undefined_reason());
  if (!value.is_string()) template_error("{} must be a string, not {}", what, value.type_name());
  return value.as_string();
}

std::string strip_text(std::string_view text, const Value* characters, bool left, bool right) {
  const bool spaces = characters == nullptr || characters->is_none();
  const std::string set = spaces ? std::string() : expect_string(*characters, "strip argument");
  const auto in_set = [&](char32_t cp) {
    if (spaces) return is_python_space(cp);
    std::string one;
    append_utf8(one, cp);
    return set.find(one) != std::string::npos;
  };
  size_t begin = 0;
  while (left && begin < text.size()) {
    size_t pos = begin;
    if (!in_set(next_code_point(text, pos))) break;
    begin = pos;
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t start = end - 1;
    while (start > begin && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    size_t pos = start;
    if (!in_set(next_code_point(text, pos))) break;
    end = start;
  }
  return std::string(text.substr(begin, end - begin));
}

Value replace_text(Interpreter& interpreter, const std::string& text, const std::string& from,
                   const std::string& to, int64_t count) {
  std::string out;
  size_t done = 0, at = 0;
  while (count != 0 && at <= text.size()) {
    const size_t found = from.empty() ? at : text.find(from, at);
    if (found == std::string::npos) break;
    out.append(text, done, found - done);
    out += to;
    Budget::check_string(out.size());
    done = found + from.size();
    at = done;
    if (from.empty()) {  // between all characters, as Python
      if (at >= text.size()) break;
      next_code_point(text, at);
    }
    if (count > 0) --count;
  }
  if (done < text.size()) out.append(text, done);
  return interpreter.make_string(std::move(out));
}

std::string capitalize_text(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const bool first = pos == 0;
    const char32_t cp = next_code_point(text, pos);
    append_utf8(out, first ? to_upper(cp) : to_lower(cp));
  }
  return out;
}

std::string title_text(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t cp = next_code_point(text, pos);
    append_utf8(out, in_word ? to_lower(cp) : to_upper(cp));
    in_word = is_unicode_letter(cp);
  }
  return out;
}

Value join_values(Interpreter& interpreter, const std::vector<Value>& items, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += items[i].is_string() ? items[i].as_string() : to_string(items[i]);
    Budget::check_string(out.size());
  }
  return interpreter.make_string(std::move(out));
}

namespace {

/// One %-conversion: flags, width and precision as printf's.
struct Conversion {
  bool left = false, zero = false, plus = false, space = false, alternate = false;
  int width = 0;
  int precision = -1;
  char type = 's';
};

constexpr int kMaxWidth = 10'000;

int read_number(const std::string& s, size_t& i) {
  int value = 0;
  while (i < s.size() && s[i] >= '0' && s[i] <= '9') {
    value = value * 10 + (s[i++] - '0');
    if (value > kMaxWidth) template_error("a format width above {}", kMaxWidth);
  }
  return value;
}

Conversion read_conversion(const std::string& s, size_t& i) {
  Conversion c;
  for (; i < s.size(); ++i) {
    if (s[i] == '-')
      c.left = true;
    else if (s[i] == '0')
      c.zero = true;
    else if (s[i] == '+')
      c.plus = true;
    else if (s[i] == ' ')
      c.space = true;
    else if (s[i] == '#')
      c.alternate = true;
    else
      break;
  }
  c.width = read_number(s, i);
  if (i < s.size() && s[i] == '.') c.precision = read_number(s, ++i);
  if (i >= s.size()) template_error("incomplete format");
  c.type = s[i++];
  return c;
}

std::string format_number(const Conversion& c, const Value& value) {
  if (!value.is_number())
    template_error("%{} format: a number is required, not {}", c.type, value.type_name());
  const int precision = c.precision < 0 ? 6 : c.precision;
  const double d = value.as_double();
  switch (c.type) {
    case 'f':
    case 'F':
      return fmt::format("{:.{}f}", d, precision);
    case 'e':
      return fmt::format("{:.{}e}", d, precision);
    case 'g':
      return fmt::format("{:.{}g}", d, precision);
    default:
      break;
  }
  if (value.is_float() && !(std::abs(d) < 9e18)) template_error("cannot convert {} to an integer", d);
  const int64_t i = value.is_float() ? static_cast<int64_t>(d) : value.as_int();
  switch (c.type) {
    case 'x':
      return fmt::format("{:x}", i);
    case 'X':
      return fmt::format("{:X}", i);
    case 'o':
      return fmt::format("{:o}", i);
    default:
      return fmt::format("{}", i);
  }
}

std::string convert(const Conversion& c, const Value& value) {
  std::string text;
  bool numeric = false;
  switch (c.type) {
    case 's':
      text = to_string(value);
      break;
    case 'r':
      append_repr(text, value);
      break;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
    case 'f':
    case 'F':
    case 'e':
    case 'g':
      numeric = true;
      text = format_number(c, value);
      if (text[0] != '-' && (c.plus || c.space)) text.insert(text.begin(), c.plus ? '+' : ' ');
      break;
    default:
      template_error("unsupported format character '{}'", c.type);
  }
  if (!numeric && c.precision >= 0) {
    size_t pos = 0;
    for (int i = 0; i < c.precision && pos < text.size(); ++i) next_code_point(text, pos);
    text.resize(pos);
  }
  const size_t length = utf8_length(text), width = static_cast<size_t>(c.width);
  if (length >= width) return text;
  if (c.left) return text.append(width - length, ' ');
  const bool sign = numeric && (text[0] == '-' || text[0] == '+');
  return text.insert(c.zero && sign ? 1 : 0, width - length, c.zero && numeric ? '0' : ' ');
}

}  // namespace

std::string percent_format(const std::string& format, const Value& arguments) {
  const bool tuple = arguments.is_list() && arguments.as_list().type == ListType::kTuple;
  size_t next = 0;
  const auto take = [&]() -> const Value& {
    if (tuple ? next >= arguments.as_list().items.size() : next > 0) {
      template_error("not enough arguments for format string");
    }
    return tuple ? arguments.as_list().items[next++] : (++next, arguments);
  };
  std::string out;
  for (size_t i = 0; i < format.size();) {
    if (format[i] != '%') {
      out += format[i++];
      continue;
    }
    if (++i < format.size() && format[i] == '%') {
      out += format[i++];
      continue;
    }
    const Value* named = nullptr;
    if (i < format.size() && format[i] == '(') {
      const size_t close = format.find(')', i);
      if (close == std::string::npos || !arguments.is_dict()) template_error("format requires a mapping");
      named = arguments.as_dict().find(std::string_view(format).substr(i + 1, close - i - 1));
      if (named == nullptr)
        template_error("format: key '{}' is missing", format.substr(i + 1, close - i - 1));
      i = close + 1;
    }
    const Conversion conversion = read_conversion(format, i);
    out += convert(conversion, named != nullptr ? *named : take());
    Budget::check_string(out.size());
  }
  if (tuple ? next < arguments.as_list().items.size()
            : (next == 0 && !arguments.is_dict() && !arguments.is_list())) {
    template_error("not all arguments converted during string formatting");
  }
  return out;
}

}  // namespace polylora::jinja
