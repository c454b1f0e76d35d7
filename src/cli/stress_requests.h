// What a cell of a stress run sends to its two servers.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_stress_flags.h"
#include "cli/lora_modules.h"
#include "load/bench_prompts.h"
#include "load/load_run.h"

namespace polylora {

/// What both servers call their model.
inline constexpr const char* kStressBaseName = "base";

/// The same prompts for the merged model and for adapters.
struct StressPlans {
  LoadPlan merged;
  LoadPlan adapters;
};

class StressRequests {
 public:
  /// `adapters` are the cell's, `index` is its number in the run. `flags` outlives this object.
  StressRequests(const BenchStressFlags& flags, int vocab_size, std::vector<LoraModule> adapters,
                 StressCell cell, size_t index);

  /// Short requests, one for each adapter, that make the server read what fits into its memory.
  StressPlans warm_up() const;
  /// Round `round`, from 0. Its prompts are different from those of every other round and cell, so that no
  /// cached prefix helps.
  StressPlans round(int round) const;

 private:
  std::vector<BenchPrompt> prompts(int round, int count, int output_len) const;
  LoadPlan plan(const std::vector<BenchPrompt>& prompts, const std::vector<std::string>& models) const;
  SideTraffic churn() const;

  const BenchStressFlags& flags_;
  int vocab_size_;
  std::vector<LoraModule> adapters_;
  StressCell cell_;
  size_t index_;
};

}  // namespace polylora
