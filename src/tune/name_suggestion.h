// "did you mean …" for names that users mistype.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// The names nearest to `word` by edit distance, best first, at most `count`; names that would need more than
/// half of their letters changed are left out.
std::vector<std::string> nearest_names(std::string_view word, const std::vector<std::string>& names,
                                       size_t count);

/// "; did you mean a or b?", or nothing when no name is near.
std::string suggestion(std::string_view word, const std::vector<std::string>& names);

}  // namespace polylora
