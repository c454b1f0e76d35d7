// "Did you mean …?" for names a user mistyped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate closest to `word`, or "" when none is close enough to be what was meant; one that begins
/// with `word` is.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "; did you mean X?" with the nearest candidate, or "" without one: the end of a message.
std::string suggestion(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace polylora
