#include "grammar/text_form.h"

#include <fmt/format.h>

namespace polylora::grammar {
namespace {

std::string escape(char32_t code_point) {
  constexpr std::u32string_view kNamed = U"\"\\\b\f\n\r\t";
  constexpr std::string_view kLetters = "\"\\bfnrt";
  const size_t at = kNamed.find(code_point);
  if (at != std::u32string_view::npos) return {'\\', kLetters[at]};
  return fmt::format("\\u{:04x}", static_cast<uint32_t>(code_point));
}

}  // namespace

const CodePointSet& json_plain_characters() {
  static const CodePointSet plain = CodePointSet{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}.complement();
  return plain;
}

Expr spelled(const CodePointSet& set, TextForm form) {
  if (form == TextForm::kPlain) return character(set);
  std::vector<Expr> alternatives;
  const CodePointSet plain = set.without(json_plain_characters().complement());
  if (!plain.empty()) alternatives.push_back(character(plain));
  const CodePointSet escaped = set.without(json_plain_characters());
  for (const auto& [first, last] : escaped.ranges())
    for (char32_t c = first; c <= last; ++c) alternatives.push_back(literal(escape(c)));
  return any_of(std::move(alternatives));
}

}  // namespace polylora::grammar
