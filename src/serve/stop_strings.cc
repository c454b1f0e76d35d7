#include "serve/stop_strings.h"

#include <algorithm>

namespace polylora {

std::optional<StopMatch> find_stop(std::string_view text, size_t checked,
                                   const std::vector<std::string>& stops) {
  std::optional<StopMatch> first;
  for (const std::string& stop : stops) {
    const size_t from = checked + 1 > stop.size() ? checked + 1 - stop.size() : 0;
    const size_t begin = text.find(stop, from);
    if (begin != std::string_view::npos && (!first || begin < first->begin))
      first = StopMatch{begin, stop.size(), stop};
  }
  return first;
}

size_t partial_stop(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t length = std::min(stop.size() - 1, text.size()); length > longest; --length)
      if (text.ends_with(std::string_view(stop).substr(0, length))) longest = length;
  }
  return longest;
}

}  // namespace polylora
