#include "base/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/arena.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

/// The fastest of several runs: other tenants of the machine only ever make a run slower.
template <typename Body>
double best_seconds(ThreadPool& pool, int runs, Body body) {
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    pool.run(body);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

std::atomic<uint64_t> sink{0};  // keeps the compiler from dropping what nobody reads

#if defined(__x86_64__)
constexpr int kChains = 24;  // enough to hide the latency, few enough for 32 registers
constexpr int kRounds = 20000;

// The empty asm keeps each step and, unlike a clobber of memory, leaves the sums in registers.
#define POLYLORA_PEAK_LOOP(Type, zero, step)                  \
  Type sums[kChains];                                         \
  _Pragma("GCC unroll 24") for (auto& sum : sums) sum = zero; \
  for (int i = 0; i < kRounds; ++i) {                         \
    _Pragma("GCC unroll 24") for (auto& sum : sums) {         \
      sum = step;                                             \
      asm volatile("" : "+v"(sum));                           \
    }                                                         \
  }

__attribute__((target("avx512f"))) void f32_loop() {
  const __m512 x = _mm512_set1_ps(1e-9f);
  POLYLORA_PEAK_LOOP(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, x, sum))
}
__attribute__((target("avx512f,avx512bf16"))) void bf16_loop() {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x30003000);
  POLYLORA_PEAK_LOOP(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(sum, x, x))
}
__attribute__((target("avx512f,avx512vnni"))) void int8_loop() {
  const __m512i x = _mm512_set1_epi32(0x01010101);
  POLYLORA_PEAK_LOOP(__m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sum, x, x))
}

double loop_rate(ThreadPool& pool, void (*loop)(), double ops_per_instruction) {
  const double seconds = best_seconds(pool, 15, [&](int) { loop(); });
  return ops_per_instruction * kChains * kRounds * pool.size() / seconds * 1e-9;
}
#endif

}  // namespace

double read_bandwidth(ThreadPool& pool, int64_t bytes) {
  const HugeBuffer buffer(static_cast<size_t>(bytes));
  std::memset(buffer.data(), 1, buffer.size());
  const int64_t words = bytes / 8;
  const auto read_share = [&](int member) {
    const auto* data = buffer.as<uint64_t>();
    const int64_t begin = words * member / pool.size() / 8 * 8;
    const int64_t end = words * (member + 1) / pool.size() / 8 * 8;
    uint64_t sums[4] = {};
    for (int64_t i = begin; i < end; i += 8) {  // one word per cache line is enough to move the line
      sums[i / 8 % 4] += data[i];
    }
    sink += sums[0] + sums[1] + sums[2] + sums[3];
  };
  return static_cast<double>(bytes) / best_seconds(pool, 8, read_share) * 1e-9;
}

Peaks measure_peaks(ThreadPool& pool) {
  Peaks peaks;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512f")) return peaks;
  peaks.f32 = loop_rate(pool, f32_loop, 32);
  if (__builtin_cpu_supports("avx512bf16")) peaks.bf16 = loop_rate(pool, bf16_loop, 64);
  if (__builtin_cpu_supports("avx512vnni")) peaks.int8 = loop_rate(pool, int8_loop, 128);
#else
  static_cast<void>(pool);
#endif
  return peaks;
}

}  // namespace polylora
