// How a text is spelled where it stands: as it is, or inside a JSON string.
#pragma once

#include <string_view>

#include "grammar/expression.h"

namespace polylora::grammar {

enum class TextForm : uint8_t { kPlain, kJsonString };

/// One character of `set`. In a JSON string, those that must be escaped are, in the shortest way.
Expr spelled(const CodePointSet& set, TextForm form);

/// A JSON string's characters as JSON allows them: all but control characters, quotes and backslashes.
const CodePointSet& json_plain_characters();

}  // namespace polylora::grammar
