#include "load/stress_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace polylora {
namespace {

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t slash = name.find('/');
    parts.push_back(name.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    name.remove_prefix(slash + 1);
  }
}

void add_new(std::vector<StressCell>& cells, const StressCell& cell) {
  if (std::find(cells.begin(), cells.end(), cell) == cells.end()) cells.push_back(cell);
}

}  // namespace

std::string StressCell::name() const {
  return fmt::format("{}/{}/{}/c{}{}", popularity_name(popularity), adapters, ranks, concurrency,
                     churn ? "/churn" : "");
}

std::vector<StressCell> stress_cells(const StressGrid& grid) {
  std::vector<StressCell> cells;
  for (const Popularity popularity : grid.popularity) {
    for (const int adapters : grid.adapters) {
      for (const std::string& ranks : grid.ranks) {
        for (const int concurrency : grid.concurrency) {
          StressCell cell;
          const bool single = popularity == Popularity::kOne || adapters == 1;
          cell.popularity = single ? Popularity::kOne : popularity;
          cell.adapters = single ? 1 : adapters;
          cell.ranks = cell.adapters <= grid.given ? "given" : ranks;
          cell.concurrency = concurrency;
          add_new(cells, cell);
          cell.churn = true;
          if (grid.churn) add_new(cells, cell);
        }
      }
    }
  }
  return cells;
}

bool CellLimit::matches(const StressCell& cell) const {
  if (pattern.empty()) return true;
  const std::string name = cell.name();
  const std::vector<std::string_view> wanted = parts_of(pattern), actual = parts_of(name);
  const auto agree = [](std::string_view want, std::string_view have) { return want == "*" || want == have; };
  return std::equal(wanted.begin(), wanted.end(), actual.begin(), actual.end(), agree);
}

CellLimit parse_cell_limit(std::string_view flag, std::string_view text) {
  CellLimit limit;
  const size_t equals = text.rfind('=');
  const std::string_view number = equals == std::string_view::npos ? text : text.substr(equals + 1);
  if (equals != std::string_view::npos) limit.pattern = text.substr(0, equals);
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), limit.value);
  const bool parsed = error == std::errc{} && end == number.data() + number.size();
  if (!parsed || !(limit.value >= 0) || !std::isfinite(limit.value) || (equals == 0))
    fail(ErrorCode::kInvalidArgument,
         "{}: expected VALUE or CELL=VALUE, e.g. distinct/16/r16/c16=0.65, not '{}'", flag, text);
  return limit;
}

const double* limit_of(const std::vector<CellLimit>& limits, const StressCell& cell) {
  for (auto limit = limits.rbegin(); limit != limits.rend(); ++limit) {
    if (limit->matches(cell)) return &limit->value;
  }
  return nullptr;
}

void check_limits(std::string_view flag, const std::vector<CellLimit>& limits,
                  const std::vector<StressCell>& cells) {
  for (const CellLimit& limit : limits) {
    const auto matches = [&limit](const StressCell& cell) { return limit.matches(cell); };
    if (std::any_of(cells.begin(), cells.end(), matches)) continue;
    std::vector<std::string> names;
    for (const StressCell& cell : cells) names.push_back(cell.name());
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is no cell of this run; there is: {}", flag, limit.pattern,
         fmt::join(names, ", "));
  }
}

}  // namespace polylora
