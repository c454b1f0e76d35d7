#include "text/byte_level.h"

#include <array>

#include "text/utf8.h"

namespace polylora {
namespace {

constexpr int kAlphabetEnd = 0x144;  // 188 bytes spell themselves, the other 68 take U+0100..U+0143

struct Tables {
  std::array<uint16_t, 256> char_of{};
  std::array<int16_t, kAlphabetEnd> byte_of{};

  constexpr Tables() {
    byte_of.fill(-1);
    uint16_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint16_t c = printable ? static_cast<uint16_t>(b) : next++;
      char_of[static_cast<size_t>(b)] = c;
      byte_of[c] = static_cast<int16_t>(b);
    }
  }
};

constexpr Tables kTables;

}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
  for (const char ch : bytes) {
    const uint16_t c = kTables.char_of[static_cast<uint8_t>(ch)];
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else {
      out += static_cast<char>(0xC0 | (c >> 6));
      out += static_cast<char>(0x80 | (c & 0x3F));
    }
  }
}

std::string byte_level_to_bytes(std::string_view token) {
  std::string out;
  out.reserve(token.size());
  for (size_t pos = 0; pos < token.size();) {
    const char32_t cp = next_code_point(token, pos);
    const int byte = cp < kAlphabetEnd ? kTables.byte_of[cp] : -1;
    if (byte < 0) return std::string(token);
    out += static_cast<char>(byte);
  }
  return out;
}

}  // namespace polylora
