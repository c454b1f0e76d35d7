#include "cli/stress_adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "cli/bench_stress_flags.h"

namespace polylora {
namespace {

/// Of adapter `index` among those of "r16" or "mixed".
int64_t rank_of(const std::string& ranks, int index) {
  if (ranks == "mixed") return kMixedRanks[static_cast<size_t>(index) % std::size(kMixedRanks)];
  int64_t rank = 0;
  std::from_chars(ranks.data() + 1, ranks.data() + ranks.size(), rank);
  return rank;
}

}  // namespace

StressAdapters::StressAdapters(std::vector<LoraModule> given, SyntheticAdapters writer)
    : given_(std::move(given)), writer_(std::move(writer)) {}

void StressAdapters::prepare(const std::vector<StressCell>& cells) {
  const int given = static_cast<int>(given_.size());
  for (const StressCell& cell : cells) {
    if (cell.adapters <= given) continue;
    if (first_ranks_.empty()) first_ranks_ = cell.ranks;
    std::vector<LoraModule>& adapters = made_up_[cell.ranks];
    for (int i = static_cast<int>(adapters.size()); i < cell.adapters - given; ++i) {
      LoraModule adapter;
      adapter.name = fmt::format("{}-{:04}", cell.ranks, i);
      adapter.path = writer_.write(adapter.name, rank_of(cell.ranks, i), i);
      adapters.push_back(std::move(adapter));
    }
  }
}

std::vector<LoraModule> StressAdapters::of(const StressCell& cell) const {
  const auto count = static_cast<size_t>(cell.adapters);
  std::vector<LoraModule> adapters(given_.begin(),
                                   given_.begin() + static_cast<ptrdiff_t>(std::min(count, given_.size())));
  if (adapters.size() < count) {
    const std::vector<LoraModule>& more = made_up_.at(cell.ranks);
    adapters.insert(adapters.end(), more.begin(),
                    more.begin() + static_cast<ptrdiff_t>(count - adapters.size()));
  }
  return adapters;
}

std::vector<std::string> StressAdapters::serve_items() const {
  std::vector<std::string> items;
  const auto add = [&items](const LoraModule& adapter) {
    items.push_back(nlohmann::json{{"name", adapter.name}, {"path", adapter.path.string()}}.dump());
  };
  std::for_each(given_.begin(), given_.end(), add);
  for (const auto& [ranks, adapters] : made_up_) std::for_each(adapters.begin(), adapters.end(), add);
  return items;
}

const LoraModule& StressAdapters::first() const {
  if (!given_.empty()) return given_.front();
  check(made_up_.contains(first_ranks_), "a stress run without any adapter");
  return made_up_.at(first_ranks_).front();
}

}  // namespace polylora
