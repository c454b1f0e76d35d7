// bench_machine: one line of JSON with what this machine can do right now, for benchmarks that compare
// programs.
#include <cstdio>

#include "base/machine.h"

int main() {
  using namespace polylora;
  constexpr int64_t kBytes = int64_t{512} << 20;  // far beyond the caches
  ThreadPool pool(0);
  const double bandwidth = read_bandwidth(pool, kBytes);
  const Peaks peaks = measure_peaks(pool);
  std::printf("{\"read_gb_s\": %.1f, \"bf16_gflop_s\": %.0f, \"f32_gflop_s\": %.0f}\n", bandwidth, peaks.bf16,
              peaks.f32);
  return 0;
}
