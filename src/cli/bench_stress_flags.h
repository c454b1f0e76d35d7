// The flags of `polylora bench stress`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/flag_set.h"
#include "load/stress_grid.h"
#include "load/stress_result.h"

namespace polylora {

struct BenchStressFlags {
  std::string model;
  std::vector<std::string> lora_modules;
  std::string merged;    // empty: exported
  std::string work_dir;  // empty: a temporary folder
  std::string lora_memory;
  std::vector<std::string> serve_arguments;  // what followed "--"

  std::vector<std::string> popularity = {"one", "uniform", "distinct"};
  std::vector<int> adapters = {1, 4, 16};
  std::vector<std::string> ranks = {"16"};  // a rank, or "mixed"
  std::vector<int> concurrency = {1, 16};
  bool churn = false;
  double churn_interval = 0.1;
  int rounds = 3;
  int input_len = 128;
  int output_len = 64;
  int num_prompts = 0;  // 0: twice the concurrency
  int seed = 0;

  std::vector<std::string> min_ratio, max_ttft_p99_ms;  // "[CELL=]X"
  std::string json, html;

  /// The grid; `given` adapters need not be made up. Throws kInvalidArgument for what makes no sense.
  StressGrid grid(int given) const;
  StressLimits limits() const;
};

void add_bench_stress_flags(FlagSet& flags, BenchStressFlags& values);

/// Ranks that "mixed" adapters have in turn.
inline constexpr int kMixedRanks[] = {8, 16, 64};

}  // namespace polylora
