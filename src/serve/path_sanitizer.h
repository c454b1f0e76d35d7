// Error messages for remote clients must not tell where files lie on the server.
#pragma once

#include <string>
#include <string_view>

namespace polylora {

/// Replaces absolute paths in `message` by "<path>": what starts with '/' at the beginning of a word, up to a
/// character that ends a path in a sentence.
std::string sanitize_paths(std::string_view message);

}  // namespace polylora
