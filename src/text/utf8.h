// UTF-8 and the handful of Unicode properties that tokenizers and templates ask for. Pure functions,
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace polylora {

/// What stands at the front of a byte sequence.
struct Utf8Step {
  char32_t code_point = 0xFFFD;
  uint8_t length = 0;  // bytes of the sequence, or of the maximal invalid subpart
  bool valid = false;
  bool incomplete = false;  // the bytes end inside a sequence that could still become valid
};

/// Decodes the first sequence of `bytes` (must not be empty). An invalid sequence yields the length of its
/// maximal subpart (Unicode 3.9, as Python's decoder and Rust's from_utf8_lossy).
Utf8Step utf8_step(std::string_view bytes);

/// Appends the UTF-8 of a code point; surrogates and values above U+10FFFF become U+FFFD.
void append_utf8(std::string& out, char32_t code_point);

/// Length of the longest valid prefix.
size_t valid_utf8_prefix(std::string_view bytes);

inline bool is_valid_utf8(std::string_view bytes) {
  return valid_utf8_prefix(bytes) == bytes.size();
}

/// A copy in which every maximal invalid subpart is one U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

/// Number of code points of valid UTF-8.
size_t utf8_length(std::string_view text);

/// Decodes valid UTF-8 at `pos` and moves `pos` past it. The caller guarantees validity.
char32_t next_code_point(std::string_view text, size_t& pos);

/// True when no byte has the high bit.
bool is_ascii(std::string_view text);

bool is_unicode_space(char32_t cp);        // property White_Space
bool is_python_space(char32_t cp);         // str.isspace: White_Space and U+001C..U+001F
bool is_unicode_letter(char32_t cp);       // L*
bool is_unicode_number(char32_t cp);       // N*
bool is_unicode_punctuation(char32_t cp);  // P*, and all ASCII punctuation
bool is_unicode_mark(char32_t cp);         // M*
bool is_word_char(char32_t cp);            // regex \w: letters, marks, numbers, connector punctuation
bool is_printable(char32_t cp);            // str.isprintable
bool is_upper(char32_t cp);
bool is_lower(char32_t cp);
char32_t to_upper(char32_t cp);  // simple mappings
char32_t to_lower(char32_t cp);

std::string to_lower(std::string_view text);
std::string to_upper(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// Unicode normalisation, O(n log n) whatever the text (runs of combining marks included).
std::string normalize_unicode(std::string_view text, NormalForm form);

}  // namespace polylora
