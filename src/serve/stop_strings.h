// Stop strings in a growing text.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

struct StopMatch {
  size_t begin = 0;  // byte position in the text
  size_t length = 0;
  std::string stop;
};

/// Finds the first of `stops` in `text`, looking only at matches that end after `checked` bytes. The earliest
/// one wins, so that the answer does not depend on how the text was cut into tokens.
std::optional<StopMatch> find_stop(std::string_view text, size_t checked,
                                   const std::vector<std::string>& stops);

/// The length of the longest end of `text` that could grow into one of `stops`: what a stream must not send
/// yet.
size_t partial_stop(std::string_view text, const std::vector<std::string>& stops);

}  // namespace polylora
