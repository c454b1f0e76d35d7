#include "base/nearest.h"

#include <algorithm>

namespace polylora {

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> cost(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = static_cast<int>(i + j);
        continue;
      }
      const int replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({replace, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kLongest = 200;   // the distance is quadratic, and nothing longer is a typing error
  constexpr size_t kShortStart = 4;  // what is left out at the end of a name of at least this many letters
  std::string best;
  const int limit = std::max(2, static_cast<int>(word.size()) / 3);
  int best_distance = limit + 1;
  for (const std::string& candidate : candidates) {
    if (std::max(word.size(), candidate.size()) > kLongest) continue;
    int distance = edit_distance(word, candidate);
    if (word.size() >= kShortStart && candidate.starts_with(word)) distance = std::min(distance, limit);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string suggestion(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string guess = nearest(word, candidates);
  return guess.empty() ? "" : "; did you mean " + guess + "?";
}

}  // namespace polylora
