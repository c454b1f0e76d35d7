// polylora bench NAME [ARGUMENTS]
#include "cli/bench.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

struct Benchmark {
  std::string_view name;
  std::string_view about;
  int (*run)(const Arguments&);
};

constexpr Benchmark kBenchmarks[] = {
    {"machine", "read bandwidth and peaks of this machine", run_bench_machine},
    {"kernels", "every op beside what this machine can do at best", run_bench_kernels},
    {"grammars", "token masks of structured output: new, known, and what they hold", run_bench_grammars},
    {"forward", "prefill and decode of a batch that mixes adapters, without the server", run_bench_forward},
    {"serve", "load on a running OpenAI-compatible server: throughput and latencies", run_bench_serve},
    {"stress", "what many adapters cost against one merged model", run_bench_stress},
    {"train", "tokens/s and memory of LoRA training", run_bench_train},
    {"perplexity", "what formats of weights, KV cache and adapters cost in quality", run_bench_perplexity},
};

void print_usage() {
  fmt::print("Usage: polylora bench NAME [ARGUMENTS]\n\n");
  for (const Benchmark& benchmark : kBenchmarks) fmt::print("  {:<12}{}\n", benchmark.name, benchmark.about);
  fmt::print("\n`polylora bench NAME --help` lists the flags of a benchmark.\n");
}

const Benchmark& find_benchmark(const std::string& name) {
  std::vector<std::string> names;
  for (const Benchmark& benchmark : kBenchmarks) {
    if (benchmark.name == name) return benchmark;
    names.emplace_back(benchmark.name);
  }
  fail(ErrorCode::kInvalidArgument, "unknown benchmark '{}'{} (there is: {})", name, suggestion(name, names),
       fmt::join(names, ", "));
}

}  // namespace

int run_bench(const Arguments& arguments) {
  if (arguments.empty() || arguments.front() == "--help" || arguments.front() == "-h") {
    print_usage();
    return arguments.empty() ? 2 : 0;
  }
  return find_benchmark(arguments.front()).run({arguments.begin() + 1, arguments.end()});
}

}  // namespace polylora
