// The cells of a stress run: every combination of what is varied.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "load/popularity.h"

namespace polylora {

struct StressCell {
  Popularity popularity = Popularity::kOne;
  int adapters = 1;
  std::string ranks;  // "r16"; "mixed"; "given" where no adapter is made up
  int concurrency = 1;
  bool churn = false;

  /// "distinct/16/r16/c16", "distinct/16/r16/c16/churn".
  std::string name() const;
  bool operator==(const StressCell&) const = default;
};

struct StressGrid {
  std::vector<Popularity> popularity;
  std::vector<int> adapters;
  std::vector<std::string> ranks;  // "r8", "mixed", …
  std::vector<int> concurrency;
  bool churn = false;  // every cell also under churn
  int given = 0;       // adapters that need not be made up
};

/// All different cells in the order of the lists, popularity outermost. A single adapter is always "one", and
/// "one" is always a single adapter.
std::vector<StressCell> stress_cells(const StressGrid& grid);

/// A bound on some cells. A pattern is the name of a cell in which any part may be `*`; empty: all cells.
struct CellLimit {
  std::string pattern;
  double value = 0;

  bool matches(const StressCell& cell) const;
};

/// "VALUE" or "PATTERN=VALUE" of `flag`. Throws kInvalidArgument.
CellLimit parse_cell_limit(std::string_view flag, std::string_view text);

/// The value of the last limit that matches the cell, or null.
const double* limit_of(const std::vector<CellLimit>& limits, const StressCell& cell);

/// Throws kInvalidArgument naming the flag and the cells when a limit matches none of them.
void check_limits(std::string_view flag, const std::vector<CellLimit>& limits,
                  const std::vector<StressCell>& cells);

}  // namespace polylora
