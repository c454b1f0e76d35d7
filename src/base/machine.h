// What the machine can do at best: the yardsticks that benchmarks print beside their measurements.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace polylora {

/// GB/s of reading `bytes` of memory once, all threads together.
double read_bandwidth(ThreadPool& pool, int64_t bytes);

/// Register-only throughput in GFLOP/s (int8: GOP/s), all threads together; 0 where the machine lacks the
/// instruction.
struct Peaks {
  double f32 = 0.0;
  double bf16 = 0.0;
  double int8 = 0.0;
};
Peaks measure_peaks(ThreadPool& pool);

}  // namespace polylora
