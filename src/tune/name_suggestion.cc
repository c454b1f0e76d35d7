#include "tune/name_suggestion.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace polylora {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view word, const std::vector<std::string>& names,
                                       size_t count) {
  constexpr size_t kLongestWord = 200;  // the distance is quadratic; nothing longer is a typing error
  if (word.size() > kLongestWord) return {};
  std::vector<std::pair<size_t, std::string>> near;
  for (const std::string& name : names) {
    if (name.size() > kLongestWord) continue;
    const size_t distance = edit_distance(word, name);
    if (2 * distance <= std::max(word.size(), name.size())) near.emplace_back(distance, name);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> result;
  for (const auto& [distance, name] : near) {
    if (result.size() < count) result.push_back(name);
  }
  return result;
}

std::string suggestion(std::string_view word, const std::vector<std::string>& names) {
  const std::vector<std::string> near = nearest_names(word, names, 2);
  return near.empty() ? "" : fmt::format("; did you mean {}?", fmt::join(near, " or "));
}

}  // namespace polylora
