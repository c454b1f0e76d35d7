#include "base/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

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
// Chains of sums: enough to hide the latency, few enough for 32 registers, or AVX2's 16.
constexpr int kChains = 24;
constexpr int kAvx2Chains = 12;
constexpr int kRounds = 20000;

// The empty asm keeps each step and, unlike a clobber of memory, leaves the sums in registers.
#define POLYLORA_PEAK_LOOP(Type, chains, zero, step)          \
  Type sums[chains];                                          \
  _Pragma("GCC unroll 24") for (auto& sum : sums) sum = zero; \
  for (int i = 0; i < kRounds; ++i) {                         \
    _Pragma("GCC unroll 24") for (auto& sum : sums) {         \
      sum = step;                                             \
      asm volatile("" : "+v"(sum));                           \
    }                                                         \
  }

__attribute__((target("avx512f"))) void f32_loop() {
  const __m512 x = _mm512_set1_ps(1e-9f);
  POLYLORA_PEAK_LOOP(__m512, kChains, _mm512_setzero_ps(), _mm512_fmadd_ps(x, x, sum))
}
__attribute__((target("avx512f,avx512bf16"))) void bf16_loop() {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x30003000);
  POLYLORA_PEAK_LOOP(__m512, kChains, _mm512_setzero_ps(), _mm512_dpbf16_ps(sum, x, x))
}
__attribute__((target("avx512f,avx512vnni"))) void int8_loop() {
  const __m512i x = _mm512_set1_epi32(0x01010101);
  POLYLORA_PEAK_LOOP(__m512i, kChains, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sum, x, x))
}
__attribute__((target("avx2,fma"))) void avx2_f32_loop() {
  const __m256 x = _mm256_set1_ps(1e-9f);
  POLYLORA_PEAK_LOOP(__m256, kAvx2Chains, _mm256_setzero_ps(), _mm256_fmadd_ps(x, x, sum))
}
__attribute__((target("avx2"))) void avx2_int16_loop() {
  const __m256i x = _mm256_set1_epi32(0x00010001);
  POLYLORA_PEAK_LOOP(__m256i, kAvx2Chains, _mm256_setzero_si256(), _mm256_madd_epi16(sum, x))
}

struct PeakLoop {
  void (*loop)();
  double ops_per_round;
};

double rate_of(const PeakLoop& loop, ThreadPool& pool, int runs) {
  const double seconds = best_seconds(pool, runs, [&](int) { loop.loop(); });
  return loop.ops_per_round * kRounds * pool.size() / seconds * 1e-9;
}

Peaks avx2_peaks(ThreadPool& pool, int runs) {
  Peaks peaks;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return peaks;
  peaks.f32 = rate_of({avx2_f32_loop, 16 * kAvx2Chains}, pool, runs);
  peaks.bf16 = peaks.f32;
  peaks.int8 = rate_of({avx2_int16_loop, 32 * kAvx2Chains}, pool, runs);
  return peaks;
}

Peaks avx512_peaks(ThreadPool& pool, int runs) {
  Peaks peaks;
  if (!__builtin_cpu_supports("avx512f")) return peaks;
  peaks.f32 = rate_of({f32_loop, 32 * kChains}, pool, runs);
  if (__builtin_cpu_supports("avx512bf16")) peaks.bf16 = rate_of({bf16_loop, 64 * kChains}, pool, runs);
  if (__builtin_cpu_supports("avx512vnni")) peaks.int8 = rate_of({int8_loop, 128 * kChains}, pool, runs);
  return peaks;
}
#endif

}  // namespace

ReadProbe::ReadProbe(int64_t bytes) : buffer_(static_cast<size_t>(bytes)) {
  std::memset(buffer_.data(), 1, buffer_.size());
}

double ReadProbe::bandwidth(ThreadPool& pool, int runs) const {
  const auto words = static_cast<int64_t>(buffer_.size() / 8);
  const auto read_share = [&](int member) {
    const auto* data = buffer_.as<uint64_t>();
    const int64_t begin = words * member / pool.size() / 8 * 8;
    const int64_t end = words * (member + 1) / pool.size() / 8 * 8;
    uint64_t sums[4] = {};
    for (int64_t i = begin; i < end; i += 8) {  // one word per cache line is enough to move the line
      sums[i / 8 % 4] += data[i];
    }
    sink += sums[0] + sums[1] + sums[2] + sums[3];
  };
  return static_cast<double>(buffer_.size()) / best_seconds(pool, runs, read_share) * 1e-9;
}

double read_bandwidth(ThreadPool& pool, int64_t bytes) {
  constexpr int kRuns = 8;
  return ReadProbe(bytes).bandwidth(pool, kRuns);
}

Peaks measure_peaks(ThreadPool& pool, Instructions instructions, int runs) {
#if defined(__x86_64__)
  if (instructions == Instructions::kAvx512) return avx512_peaks(pool, runs);
  if (instructions == Instructions::kAvx2) return avx2_peaks(pool, runs);
#else
  static_cast<void>(pool);
  static_cast<void>(instructions);
  static_cast<void>(runs);
#endif
  return {};
}

}  // namespace polylora
