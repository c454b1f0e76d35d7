#include "tune/data/dataset_mix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tune/data/seeded_order.h"

namespace polylora {
namespace {

using Positions = std::vector<DatasetPosition>;

Positions concatenate(const std::vector<size_t>& sizes) {
  Positions result;
  for (size_t dataset = 0; dataset < sizes.size(); ++dataset) {
    for (size_t record = 0; record < sizes[dataset]; ++record) result.push_back({dataset, record});
  }
  return result;
}

/// When interleaving ends, and what becomes of datasets that run out before that.
enum class Until { kFirstRunsOut, kLastRunsOutRepeating, kLastRunsOutOnce };

Positions take_turns(const std::vector<size_t>& sizes, const std::vector<size_t>& used, Until until) {
  size_t rounds = sizes[used[0]];
  for (const size_t dataset : used) {
    rounds =
        until == Until::kFirstRunsOut ? std::min(rounds, sizes[dataset]) : std::max(rounds, sizes[dataset]);
  }
  Positions result;
  for (size_t round = 0; round < rounds; ++round) {
    for (const size_t dataset : used) {
      const bool repeats = round >= sizes[dataset];
      if (!repeats || until == Until::kLastRunsOutRepeating)
        result.push_back({dataset, round % sizes[dataset]});
    }
  }
  return result;
}

size_t draw(const std::vector<double>& weights, double uniform) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double left = uniform * total;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    if (left < weights[i]) return i;
    left -= weights[i];
  }
  return weights.size() - 1;
}

Positions draw_turns(const std::vector<size_t>& sizes, const std::vector<size_t>& used, Until until,
                     const std::vector<double>& probabilities, int64_t seed) {
  std::vector<double> weights;
  size_t records = 0;
  for (const size_t dataset : used) {
    weights.push_back(probabilities[dataset]);
    records += sizes[dataset];
  }
  constexpr uint64_t kInterleaveStream = 2;
  const SeededPicks picks(seed, kInterleaveStream);
  std::vector<size_t> next(used.size());
  std::vector<bool> exhausted(used.size());
  Positions result;
  const auto done = [&] {
    const auto count = std::count(exhausted.begin(), exhausted.end(), true);
    return until == Until::kFirstRunsOut ? count > 0 : count == static_cast<std::ptrdiff_t>(used.size());
  };
  for (uint64_t turn = 0; !done(); ++turn) {
    // A probability near 0 would repeat (or pass over) the other datasets without end.
    if (turn > 1000 * records)
      fail(ErrorCode::kInvalidArgument, "interleave_probs would go through the other datasets 1000 times");
    const size_t i = draw(weights, picks.uniform(turn));
    if (exhausted[i] && until == Until::kLastRunsOutOnce) continue;
    result.push_back({used[i], next[i]});
    if (++next[i] == sizes[used[i]]) {
      exhausted[i] = true;
      next[i] = 0;
    }
  }
  return result;
}

Until until_of(const std::string& strategy) {
  if (strategy == "interleave_under") return Until::kFirstRunsOut;
  if (strategy == "interleave_over") return Until::kLastRunsOutRepeating;
  if (strategy == "interleave_once") return Until::kLastRunsOutOnce;
  fail(ErrorCode::kInvalidArgument,
       "mix_strategy '{}' is not known; use concat, interleave_under, interleave_over or interleave_once",
       strategy);
}

void check_probabilities(const std::vector<double>& probabilities, size_t datasets) {
  if (probabilities.empty()) return;
  if (probabilities.size() != datasets) {
    fail(ErrorCode::kInvalidArgument, "interleave_probs has {} numbers for {} datasets", probabilities.size(),
         datasets);
  }
  for (const double p : probabilities) {
    if (!(p > 0.0 && std::isfinite(p)))
      fail(ErrorCode::kInvalidArgument, "interleave_probs: {} is not above 0", p);
  }
}

}  // namespace

std::vector<DatasetPosition> mix_datasets(const std::vector<size_t>& sizes, const std::string& strategy,
                                          const std::vector<double>& probabilities, int64_t seed) {
  if (sizes.size() <= 1 || strategy == "concat") return concatenate(sizes);
  const Until until = until_of(strategy);
  check_probabilities(probabilities, sizes.size());
  std::vector<size_t> used;
  for (size_t dataset = 0; dataset < sizes.size(); ++dataset) {
    if (sizes[dataset] > 0) used.push_back(dataset);
  }
  if (used.empty()) return {};
  return probabilities.empty() ? take_turns(sizes, used, until)
                               : draw_turns(sizes, used, until, probabilities, seed);
}

std::vector<size_t> held_out(size_t count, double val_size, int64_t seed) {
  const double wanted =
      val_size >= 1.0 ? std::floor(val_size) : std::ceil(val_size * static_cast<double>(count));
  if (!(wanted < static_cast<double>(count))) {
    fail(ErrorCode::kInvalidArgument, "val_size {} leaves none of the {} usable records to train on",
         val_size, count);
  }
  constexpr uint64_t kSplitStream = 3;
  std::vector<size_t> order = seeded_order(count, seed, kSplitStream);
  order.resize(static_cast<size_t>(wanted));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace polylora
