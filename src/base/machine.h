// What the machine can do at best: the yardsticks that benchmarks print beside their measurements.
#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/thread_pool.h"

namespace polylora {

/// Reads memory that it keeps for the purpose, again and again.
class ReadProbe {
 public:
  explicit ReadProbe(int64_t bytes);
  /// GB/s of reading all of it once, all threads together: the fastest of `runs`.
  double bandwidth(ThreadPool& pool, int runs) const;

 private:
  HugeBuffer buffer_;
};

/// The same, once. 1 GiB is more than any cache has.
double read_bandwidth(ThreadPool& pool, int64_t bytes);

/// Vector instructions that arithmetic is done with.
enum class Instructions : uint8_t { kNone, kAvx2, kAvx512 };

/// Register-only throughput in GFLOP/s (int8: GOP/s), all threads together; 0 where the machine lacks the
/// instruction. AVX2 has no instruction for bf16, which it multiplies as f32, nor for int8, which it
/// multiplies as int16.
struct Peaks {
  double f32 = 0.0;
  double bf16 = 0.0;
  double int8 = 0.0;
};
/// The fastest of `runs`, each of less than a millisecond.
Peaks measure_peaks(ThreadPool& pool, Instructions instructions = Instructions::kAvx512, int runs = 15);

}  // namespace polylora
