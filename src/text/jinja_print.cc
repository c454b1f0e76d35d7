// How values become text: str(), repr() and json.dumps() as Python writes them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_value.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

void append_string_repr(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t cp = next_code_point(text, pos);
    if (cp == static_cast<char32_t>(quote) || cp == '\\') {
      out += '\\';
      out += static_cast<char>(cp);
    } else if (cp == '\n') {
      out += "\\n";
    } else if (cp == '\r') {
      out += "\\r";
    } else if (cp == '\t') {
      out += "\\t";
    } else if (cp < 0x80 ? (cp >= 0x20 && cp != 0x7F) : is_printable(cp)) {
      append_utf8(out, cp);
    } else if (cp < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(cp));
    } else {
      out += cp < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(cp))
                          : fmt::format("\\U{:08x}", static_cast<uint32_t>(cp));
    }
  }
  out += quote;
}

void append_list_repr(std::string& out, const List& list, int depth) {
  const bool tuple = list.type == ListType::kTuple;
  if (list.type == ListType::kView) out += "dict_items(";
  out += tuple ? '(' : '[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, list.items[i], depth);
  }
  if (tuple && list.items.size() == 1) out += ',';
  out += tuple ? ')' : ']';
  if (list.type == ListType::kView) out += ')';
}

/// Writes JSON. Values nest at most kMaxValueDepth deep, which bounds the recursion.
class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, std::string& out) : style_(style), out_(out) {}

  void write(const Value& value, int level) {
    Budget::check_string(out_.size());
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.as_bool() ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(value.as_int());
    } else if (value.is_float()) {
      write_float(value.as_double());
    } else if (value.is_string()) {
      write_string(value.as_string());
    } else if (value.is_list() && value.as_list().type != ListType::kGenerator &&
               value.as_list().type != ListType::kView) {
      write_list(value.as_list(), level);
    } else if (value.is_dict()) {
      write_dict(value.as_dict(), level);
    } else {
      template_error("Object of type {} is not JSON serializable", value.type_name());
    }
  }

 private:
  void write_float(double d) {
    if (std::isnan(d)) {
      out_ += "NaN";
    } else if (std::isinf(d)) {
      out_ += d > 0 ? "Infinity" : "-Infinity";
    } else {
      out_ += float_repr(d);
    }
  }

  void write_unit(uint32_t unit) { out_ += fmt::format("\\u{:04x}", unit); }

  void write_string(std::string_view text) {
    out_ += '"';
    for (size_t pos = 0; pos < text.size();) {
      const char32_t cp = next_code_point(text, pos);
      switch (cp) {
        case '"':
          out_ += "\\\"";
          break;
        case '\\':
          out_ += "\\\\";
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\b':
          out_ += "\\b";
          break;
        case '\f':
          out_ += "\\f";
          break;
        default:
          if (cp >= 0x20 && (cp < 0x7F || !style_.ensure_ascii)) {
            append_utf8(out_, cp);
          } else if (cp < 0x10000) {
            write_unit(cp);
          } else {
            write_unit(0xD800 + ((cp - 0x10000) >> 10));
            write_unit(0xDC00 + ((cp - 0x10000) & 0x3FF));
          }
      }
    }
    out_ += '"';
  }

  void newline(int level) {
    if (style_.indent < 0 && style_.indent_text.empty()) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) {
      if (style_.indent_text.empty()) {
        out_.append(static_cast<size_t>(style_.indent), ' ');
      } else {
        out_ += style_.indent_text;
      }
    }
  }

  void write_list(const List& list, int level) {
    if (list.items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      newline(level + 1);
      write(list.items[i], level + 1);
    }
    newline(level);
    out_ += ']';
  }

  void write_key(const Value& key) {
    if (key.is_string()) {
      write_string(key.as_string());
    } else if (key.is_none() || key.is_number()) {
      out_ += '"';
      write(key, 0);
      out_ += '"';
    } else {
      template_error("keys must be str, int, float, bool or None, not {}", key.type_name());
    }
  }

  void write_dict(const Dict& dict, int level) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    auto items = dict.items;
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      newline(level + 1);
      write_key(items[i].first);
      out_ += style_.key_separator;
      write(items[i].second, level + 1);
    }
    newline(level);
    out_ += '}';
  }

  const JsonStyle& style_;
  std::string& out_;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const double size = std::abs(value);
  const bool exponent = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto format = exponent ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
  std::string out(buffer, end);
  if (!exponent && out.find('.') == std::string::npos) out += ".0";
  return out;
}

void append_repr(std::string& out, const Value& value, int depth) {
  if (depth > kMaxValueDepth) template_error("values are nested too deeply to print");
  Budget::check_string(out.size());
  if (value.is_string()) {
    append_string_repr(out, value.as_string());
  } else if (value.is_list()) {
    append_list_repr(out, value.as_list(), depth + 1);
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.as_dict().items) {
      if (!first) out += ", ";
      first = false;
      append_repr(out, key, depth + 1);
      out += ": ";
      append_repr(out, item, depth + 1);
    }
    out += '}';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else {
    out += to_string(value);
  }
}

std::string to_string(const Value& value) {
  if (value.is_string()) return value.as_string();
  if (value.is_undefined()) return {};
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.as_bool() ? "True" : "False";
  if (value.is_int()) return std::to_string(value.as_int());
  if (value.is_float()) return float_repr(value.as_double());
  if (value.is_object()) return fmt::format("<{}>", value.as_object().type_name());
  std::string out;
  append_repr(out, value);
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style) {
  std::string out;
  JsonWriter(style, out).write(value, 0);
  return out;
}

}  // namespace polylora::jinja
