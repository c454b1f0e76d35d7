// polylora bench NAME [ARGUMENTS]
#include "cli/bench.h"

#include <fmt/format.h>

#include <string_view>

#include "base/error.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

struct Benchmark {
  std::string_view name;
  std::string_view summary;
  int (*run)(const Arguments& arguments);
};

constexpr Benchmark kBenchmarks[] = {
    {"kernels", "every op against what this machine can do", run_bench_kernels},
    {"train", "tokens/s and memory of LoRA training", run_bench_train},
};

std::string names() {
  std::string list;
  for (const Benchmark& benchmark : kBenchmarks)
    fmt::format_to(std::back_inserter(list), " {}", benchmark.name);
  return list;
}

}  // namespace

int run_bench(const Arguments& arguments) {
  const std::string name = arguments.empty() ? "--help" : arguments.front();
  for (const Benchmark& benchmark : kBenchmarks) {
    if (name == benchmark.name) return benchmark.run({arguments.begin() + 1, arguments.end()});
  }
  if (name != "--help" && name != "-h")
    fail(ErrorCode::kInvalidArgument, "unknown benchmark '{}'; there are:{}", name, names());
  fmt::print("Usage: polylora bench NAME [ARGUMENTS]\n\n");
  for (const Benchmark& benchmark : kBenchmarks)
    fmt::print("  {:<11} {}\n", benchmark.name, benchmark.summary);
  return arguments.empty() ? 2 : 0;
}

}  // namespace polylora
