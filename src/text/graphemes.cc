#include "text/graphemes.h"

#include <utf8proc.h>

#include "text/utf8.h"

namespace polylora {

size_t grapheme_end(std::string_view text, size_t begin) {
  size_t end = begin;
  auto last = static_cast<utf8proc_int32_t>(next_code_point(text, end));
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    size_t after = end;
    const auto next = static_cast<utf8proc_int32_t>(next_code_point(text, after));
    if (utf8proc_grapheme_break_stateful(last, next, &state)) break;
    last = next;
    end = after;
  }
  return end;
}

}  // namespace polylora
