// JSON schema's `format`.
#pragma once

#include <string_view>

namespace polylora::grammar {

/// A regular expression for strings of the format, whose matches all are valid; empty for an unknown format.
/// (RFC 3339 without leap days and seconds, the common part of RFC 5321, 1123, 3986 and 9562.)
std::string_view format_pattern(std::string_view format);

}  // namespace polylora::grammar
