// Parses a template into its syntax tree.
#pragma once

#include <memory>
#include <string_view>

#include "text/jinja_ast.h"

namespace polylora::jinja {

/// Throws kDataCorrupt "chat template, line N: …" for syntax errors, kUnsupported for tags that chat
/// templates do not have (include, extends, …). Nesting is bounded.
std::unique_ptr<const Template> parse(std::string_view source);

}  // namespace polylora::jinja
