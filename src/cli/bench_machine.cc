// polylora bench machine: what this machine can do at best right now, the yardstick beside every other
// benchmark.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/machine.h"
#include "cli/bench.h"

namespace polylora {
namespace {

constexpr int64_t kBytes = int64_t{512} << 20;  // far beyond the caches

}  // namespace

int run_bench_machine(const Arguments& arguments) {
  int threads = 0;
  bool json = false;
  FlagSet flags("bench machine", "Measures this machine's read bandwidth and peaks.");
  flags.integer("--threads", threads, 0, "0: one per core");
  flags.toggle("--json", json, "print one line of JSON");
  if (!flags.parse(arguments)) return 0;

  ThreadPool pool(threads);
  const double bandwidth = read_bandwidth(pool, kBytes);
  const Peaks peaks = measure_peaks(pool);
  if (json) {
    const nlohmann::ordered_json line = {{"threads", pool.size()},
                                         {"read_gb_s", bandwidth},
                                         {"f32_gflop_s", peaks.f32},
                                         {"bf16_gflop_s", peaks.bf16},
                                         {"int8_gop_s", peaks.int8}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{} threads: read {:.1f} GB/s, f32 {:.0f} GFLOP/s, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n",
               pool.size(), bandwidth, peaks.f32, peaks.bf16, peaks.int8);
  }
  return 0;
}

}  // namespace polylora
