// polylora bench NAME [ARGUMENTS]
#include "cli/bench.h"

#include <fmt/format.h>

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
    {"forward", "prefill and decode of a batch that mixes adapters, without the server", run_bench_forward},
    {"kernels", "every op beside what this machine can do at best", run_bench_kernels},
    {"perplexity", "what formats of weights, KV cache and adapters cost in quality", run_bench_perplexity},
    {"train", "tokens/s and memory of LoRA training", run_bench_train},
};

void print_help() {
  fmt::print("Usage: polylora bench NAME [ARGUMENTS]\n\n");
  for (const Benchmark& benchmark : kBenchmarks)
    fmt::print("  {:11} {}\n", benchmark.name, benchmark.summary);
}

}  // namespace

int run_bench(const Arguments& arguments) {
  const std::string name = arguments.empty() ? "--help" : arguments.front();
  for (const Benchmark& benchmark : kBenchmarks) {
    if (name == benchmark.name) return benchmark.run({arguments.begin() + 1, arguments.end()});
  }
  if (name != "--help" && name != "-h")
    fail(ErrorCode::kInvalidArgument, "unknown benchmark '{}'; polylora bench --help lists them", name);
  print_help();
  return arguments.empty() ? 2 : 0;
}

}  // namespace polylora
