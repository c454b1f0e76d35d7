// The adapters of a stress run: the given ones, and random ones where a cell needs more.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cli/lora_modules.h"
#include "cli/synthetic_adapters.h"
#include "load/stress_grid.h"

namespace polylora {

class StressAdapters {
 public:
  StressAdapters(std::vector<LoraModule> given, SyntheticAdapters writer);

  /// Writes what the cells need beyond the given ones.
  void prepare(const std::vector<StressCell>& cells);

  /// The first `cell.adapters` for this cell.
  std::vector<LoraModule> of(const StressCell& cell) const;
  /// All of them, as items of --lora-modules.
  std::vector<std::string> serve_items() const;
  /// The adapter that the merged model is made with.
  const LoraModule& first() const;

 private:
  std::vector<LoraModule> given_;
  SyntheticAdapters writer_;
  std::map<std::string, std::vector<LoraModule>> made_up_;  // by StressCell::ranks
  std::string first_ranks_;
};

}  // namespace polylora
