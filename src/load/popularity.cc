#include "load/popularity.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "load/random_stream.h"

namespace polylora {
namespace {

constexpr uint64_t kPopularityStream = 0x706f70;

constexpr std::array<std::pair<Popularity, std::string_view>, 5> kNames = {
    {{Popularity::kOne, "one"},
     {Popularity::kIdentical, "identical"},
     {Popularity::kUniform, "uniform"},
     {Popularity::kZipf, "zipf"},
     {Popularity::kDistinct, "distinct"}}};

/// Sums of 1/k up to each k.
std::vector<double> zipf_sums(size_t adapters) {
  std::vector<double> sums;
  double sum = 0;
  for (size_t k = 1; k <= adapters; ++k) sums.push_back(sum += 1.0 / static_cast<double>(k));
  return sums;
}

size_t draw(const std::vector<double>& sums, RandomStream& random) {
  const auto found = std::upper_bound(sums.begin(), sums.end(), random.uniform() * sums.back());
  return std::min(static_cast<size_t>(found - sums.begin()), sums.size() - 1);
}

}  // namespace

std::string_view popularity_name(Popularity popularity) {
  return kNames[static_cast<size_t>(popularity)].second;
}

Popularity parse_popularity(std::string_view flag, std::string_view name) {
  for (const auto& [popularity, known] : kNames) {
    if (known == name) return popularity;
  }
  fail(ErrorCode::kInvalidArgument, "{}: '{}' is not one of one, identical, uniform, zipf, distinct", flag,
       name);
}

std::vector<size_t> assign_adapters(Popularity popularity, size_t adapters, size_t requests, size_t round,
                                    uint64_t seed) {
  check(adapters > 0, "requests need at least one adapter");
  RandomStream random(seed, kPopularityStream + round);
  const std::vector<double> sums = zipf_sums(popularity == Popularity::kZipf ? adapters : 0);
  std::vector<size_t> assigned;
  for (size_t i = 0; i < requests; ++i) {
    switch (popularity) {
      case Popularity::kOne:
        assigned.push_back(0);
        break;
      case Popularity::kIdentical:
        assigned.push_back(round % adapters);
        break;
      case Popularity::kUniform:
        assigned.push_back(random.below(adapters));
        break;
      case Popularity::kZipf:
        assigned.push_back(draw(sums, random));
        break;
      case Popularity::kDistinct:
        assigned.push_back((round * requests + i) % adapters);
        break;
    }
  }
  return assigned;
}

}  // namespace polylora
