#include "serve/json_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/utf8.h"

namespace polylora {

namespace {

bool is_plain(char byte) {
  return static_cast<unsigned char>(byte) >= 0x20 && byte != '"' && byte != '\\';
}

void append_escape(std::string& out, char byte) {
  constexpr std::string_view kBytes = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  out += '\\';
  if (const size_t at = kBytes.find(byte); at != std::string_view::npos) {
    out += kLetters[at];
  } else {
    fmt::format_to(std::back_inserter(out), "u{:04x}", static_cast<int>(byte));
  }
}

}  // namespace

JsonText& JsonText::key(std::string_view name) {
  if (!text_.empty() && text_.back() != '{') text_ += ',';
  text_ += '"';
  text_ += name;
  text_ += "\":";
  return *this;
}

JsonText& JsonText::string(std::string_view value) {
  if (!is_valid_utf8(value)) return json(value);
  text_ += '"';
  for (auto at = value.begin(); at != value.end();) {
    const auto special = std::find_if_not(at, value.end(), is_plain);
    text_.append(at, special);
    if (special == value.end()) break;
    append_escape(text_, *special);
    at = special + 1;
  }
  text_ += '"';
  return *this;
}

JsonText& JsonText::number(int64_t value) {
  const fmt::format_int digits(value);
  text_.append(digits.data(), digits.size());
  return *this;
}

JsonText& JsonText::json(const Json& value) {
  text_ += value.is_null() ? "null" : dump_json(value);
  return *this;
}

JsonText& JsonText::raw(std::string_view json) {
  text_ += json;
  return *this;
}

}  // namespace polylora
