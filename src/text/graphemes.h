// Extended grapheme clusters: what a reader takes for one character. Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <string_view>

namespace polylora {

/// The end of the cluster that begins at `begin` in valid UTF-8 (Unicode Standard Annex 29, the properties
/// being utf8proc's). `begin` must be a boundary; costs the length of the cluster.
size_t grapheme_end(std::string_view text, size_t begin);

}  // namespace polylora
