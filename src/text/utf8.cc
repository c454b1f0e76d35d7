#include "text/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

utf8proc_category_t category(char32_t cp) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(cp));
}

struct Lead {
  uint8_t length;     // 0 = not a lead byte
  uint8_t low, high;  // range of the second byte
};

Lead classify_lead(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  if (byte(0) < 0x80) return {byte(0), 1, true, false};
  const Lead lead = classify_lead(byte(0));
  if (lead.length == 0) return {0xFFFD, 1, false, false};
  char32_t cp = byte(0) & (0x7Fu >> lead.length);
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (i >= bytes.size()) return {0xFFFD, i, false, true};
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte(i) < low || byte(i) > high) return {0xFFFD, i, false, false};
    cp = (cp << 6) | (byte(i) & 0x3Fu);
  }
  return {cp, lead.length, true, false};
}

void append_utf8(std::string& out, char32_t cp) {
  if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) cp = 0xFFFD;
  if (cp < 0x80) {
    out += static_cast<char>(cp);
  } else if (cp < 0x800) {
    out += static_cast<char>(0xC0 | (cp >> 6));
    out += static_cast<char>(0x80 | (cp & 0x3F));
  } else if (cp < 0x10000) {
    out += static_cast<char>(0xE0 | (cp >> 12));
    out += static_cast<char>(0x80 | ((cp >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (cp & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (cp >> 18));
    out += static_cast<char>(0x80 | ((cp >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((cp >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (cp & 0x3F));
  }
}

size_t valid_utf8_prefix(std::string_view bytes) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    if (static_cast<uint8_t>(bytes[pos]) < 0x80) {
      ++pos;
      continue;
    }
    const Utf8Step step = utf8_step(bytes.substr(pos));
    if (!step.valid) break;
    pos += step.length;
  }
  return pos;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t good = valid_utf8_prefix(bytes);
    out.append(bytes.substr(0, good));
    bytes.remove_prefix(good);
    if (bytes.empty()) break;
    append_utf8(out, 0xFFFD);
    bytes.remove_prefix(utf8_step(bytes).length);
  }
  return out;
}

size_t utf8_length(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(),
                                           [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

char32_t next_code_point(std::string_view text, size_t& pos) {
  const auto first = static_cast<uint8_t>(text[pos]);
  if (first < 0x80) {
    ++pos;
    return first;
  }
  const Utf8Step step = utf8_step(text.substr(pos));
  pos += step.length;
  return step.code_point;
}

bool is_ascii(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0x80) != 0; });
}

bool is_unicode_space(char32_t cp) {
  if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
  if (cp == 0x85) return true;
  const auto c = category(cp);
  return c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

bool is_python_space(char32_t cp) {
  return (cp >= 0x1C && cp <= 0x1F) || is_unicode_space(cp);
}

bool is_unicode_letter(char32_t cp) {
  const auto c = category(cp);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool is_unicode_mark(char32_t cp) {
  const auto c = category(cp);
  return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

bool is_unicode_number(char32_t cp) {
  if (cp < 0x80) return cp >= '0' && cp <= '9';
  const auto c = category(cp);
  return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool is_unicode_punctuation(char32_t cp) {
  if (cp < 0x80) return cp > ' ' && cp < 0x7F && !is_word_char(cp) ? true : cp == '_';
  const auto c = category(cp);
  return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool is_word_char(char32_t cp) {
  if (cp < 0x80) {
    return (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') || cp == '_';
  }
  const auto c = category(cp);
  return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_PC);
}

bool is_printable(char32_t cp) {
  if (cp == ' ') return true;
  const auto c = category(cp);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_SO;
}

bool is_upper(char32_t cp) {
  const auto c = category(cp);
  return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT;
}

bool is_lower(char32_t cp) {
  return category(cp) == UTF8PROC_CATEGORY_LL;
}

char32_t to_upper(char32_t cp) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(cp)));
}

char32_t to_lower(char32_t cp) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(cp)));
}

namespace {

std::string map_code_points(std::string_view text, char32_t (*map)(char32_t)) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) append_utf8(out, map(next_code_point(text, pos)));
  return out;
}

/// Below U+0300 nothing combines and every composed form is its own NFC.
bool trivially_nfc(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0xCC; });
}

/// Decomposes and orders combining marks. utf8proc_decompose orders by insertion, which is quadratic in the
/// length of a run of marks; a stable sort per run is not.
std::vector<utf8proc_int32_t> decompose(std::string_view text, utf8proc_option_t options) {
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  utf8proc_int32_t buffer[64];
  for (size_t pos = 0; pos < text.size();) {
    const auto cp = static_cast<utf8proc_int32_t>(next_code_point(text, pos));
    int boundary = 0;
    const auto n = utf8proc_decompose_char(cp, buffer, 64, options, &boundary);
    if (n < 0 || n > 64) fail(ErrorCode::kInternal, "cannot decompose U+{:04X}", static_cast<uint32_t>(cp));
    out.insert(out.end(), buffer, buffer + n);
  }
  const auto ccc = [](utf8proc_int32_t cp) { return utf8proc_get_property(cp)->combining_class; };
  for (size_t i = 0; i < out.size();) {
    if (ccc(out[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < out.size() && ccc(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(i),
                     out.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](auto a, auto b) { return ccc(a) < ccc(b); });
    i = end;
  }
  return out;
}

}  // namespace

std::string to_lower(std::string_view text) {
  return map_code_points(text, to_lower);
}
std::string to_upper(std::string_view text) {
  return map_code_points(text, to_upper);
}

std::string normalize_unicode(std::string_view text, NormalForm form) {
  if (form == NormalForm::kNfc ? trivially_nfc(text) : is_ascii(text)) return std::string(text);
  unsigned options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  std::vector<utf8proc_int32_t> points = decompose(text, static_cast<utf8proc_option_t>(options));
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    const auto n =
        utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n < 0) fail(ErrorCode::kInternal, "Unicode composition failed: {}", utf8proc_errmsg(n));
    points.resize(static_cast<size_t>(n));
  }
  std::string out;
  out.reserve(text.size());
  for (const auto cp : points) append_utf8(out, static_cast<char32_t>(cp));
  return out;
}

}  // namespace polylora
