// The model that a benchmark measures: one from disk, or one of the same shape with random weights.
#pragma once

#include <memory>
#include <string>

#include "base/machine.h"
#include "cli/flag_set.h"
#include "io/checkpoint.h"

namespace polylora {

struct BenchModelFlags {
  std::string model;
  std::string random_config;
  std::string dtype = "bfloat16";
  int threads = 0;
};

/// MODEL, --random-config, --dtype and --threads.
void add_bench_model_flags(FlagSet& flags, BenchModelFlags& values);

WeightPolicy bench_model_policy(const BenchModelFlags& flags);
WeightFormat bench_model_format(const BenchModelFlags& flags);

/// The peak that bounds products with weights of this format, G/s.
double peak_of(WeightFormat format, const Peaks& peaks);

/// Throws kInvalidArgument when neither a model nor a config is named.
std::unique_ptr<Model> load_bench_model(const BenchModelFlags& flags, Backend& backend);

}  // namespace polylora
