// The kernels' vector of 16 floats on AVX2 with FMA and F16C: two 256-bit halves.
// Included by one translation unit only; everything is in its anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define POLYLORA_INLINE inline __attribute__((always_inline))

namespace polylora::cpu {
namespace {

constexpr const char* kIsaDescription = "avx2-fma";

// Tile sizes: two registers per vector, 16 registers. Five rows of sums leave the six that the two halves of
// a bf16 row and a pair of activations take; with six rows bf16 spills and loses a quarter of its speed.
constexpr int kFloatTileRows = 5;
constexpr int kFloatTileCols = 1;
constexpr int kFloatNarrowRows = 5;
constexpr int kQuantTileRows = 3;
constexpr int kQuantTileCols = 1;
constexpr int kQuantNarrowRows = 3;
constexpr int kValueTileRows = 3;
constexpr int kValueTileCols = 2;

struct Vec {  // 16 floats
  __m256 lo, hi;
};
struct IVec {  // 16 int32
  __m256i lo, hi;
};
using Row = IVec;  // 64 raw bytes of a panel

POLYLORA_INLINE __m256i first_lanes8(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

POLYLORA_INLINE Vec splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
POLYLORA_INLINE Vec load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
POLYLORA_INLINE Vec load_n(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes8(n)), _mm256_maskload_ps(p + 8, first_lanes8(n - 8))};
}
POLYLORA_INLINE void store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
POLYLORA_INLINE void store_n(float* p, Vec v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes8(n), v.lo);
  _mm256_maskstore_ps(p + 8, first_lanes8(n - 8), v.hi);
}

POLYLORA_INLINE Vec add(Vec a, Vec b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec sub(Vec a, Vec b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec div(Vec a, Vec b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
POLYLORA_INLINE Vec fused(Vec a, Vec b, Vec c) {  // a·b + c rounded once, on every instruction set
  return fma(a, b, c);
}
POLYLORA_INLINE Vec sqrt(Vec a) {
  return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
POLYLORA_INLINE Vec max(Vec a, Vec b) {  // b where either is NaN
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec min(Vec a, Vec b) {  // b where either is NaN
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
POLYLORA_INLINE Vec abs(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
POLYLORA_INLINE float reduce_add(Vec a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
POLYLORA_INLINE float reduce_max(Vec a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
/// Whether a > b in any lane.
POLYLORA_INLINE bool any_greater(Vec a, Vec b) {
  return _mm256_movemask_ps(
             _mm256_or_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))) != 0;
}

/// `v` in lanes [begin, end), `other` elsewhere.
POLYLORA_INLINE Vec keep_lanes(Vec v, Vec other, int begin, int end) {
  const __m256i lo = _mm256_andnot_si256(first_lanes8(begin), first_lanes8(end));
  const __m256i hi = _mm256_andnot_si256(first_lanes8(begin - 8), first_lanes8(end - 8));
  return {_mm256_blendv_ps(other.lo, v.lo, _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(other.hi, v.hi, _mm256_castsi256_ps(hi))};
}
/// `v` where x >= bound or x is NaN, 0 elsewhere.
POLYLORA_INLINE Vec zero_below(Vec v, Vec x, Vec bound) {
  return {_mm256_and_ps(v.lo, _mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ)),
          _mm256_and_ps(v.hi, _mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ))};
}
/// The bits of `yes` where `mask` has ones, of `no` elsewhere.
POLYLORA_INLINE Vec select(IVec mask, Vec yes, Vec no) {
  const __m256 lo = _mm256_castsi256_ps(mask.lo), hi = _mm256_castsi256_ps(mask.hi);
  return {_mm256_or_ps(_mm256_and_ps(lo, yes.lo), _mm256_andnot_ps(lo, no.lo)),
          _mm256_or_ps(_mm256_and_ps(hi, yes.hi), _mm256_andnot_ps(hi, no.hi))};
}

POLYLORA_INLINE IVec isplat(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
POLYLORA_INLINE IVec iadd(IVec a, IVec b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
POLYLORA_INLINE int32_t reduce_add(IVec a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
POLYLORA_INLINE Vec to_float(IVec a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
POLYLORA_INLINE IVec round_to_int(Vec a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
POLYLORA_INLINE Vec power_of_two(IVec e) {  // 2^e for e in [-126, 127]
  const IVec biased = iadd(e, isplat(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(biased.lo, 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(biased.hi, 23))};
}
POLYLORA_INLINE void store_int8(int8_t* p, IVec v) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.lo, v.hi), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
template <int kBits>
POLYLORA_INLINE IVec shift_left(IVec a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}

POLYLORA_INLINE Row load_row(const std::byte* p) {
  const auto* halves = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
POLYLORA_INLINE Vec row_floats(Row row) {
  return {_mm256_castsi256_ps(row.lo), _mm256_castsi256_ps(row.hi)};
}
POLYLORA_INLINE Row low_nibbles(Row row) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(row.lo, mask), _mm256_and_si256(row.hi, mask)};
}
POLYLORA_INLINE Row high_nibbles(Row row) {
  return low_nibbles({_mm256_srli_epi16(row.lo, 4), _mm256_srli_epi16(row.hi, 4)});
}
POLYLORA_INLINE Vec load_f16(const std::byte* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

// bf16 activations: kept as the floats they stand for, because this machine multiplies floats.
constexpr int kBf16Bytes = 4;
struct Bf16Pair {
  __m256 first, second;
};
POLYLORA_INLINE Bf16Pair splat_bf16_pair(const std::byte* p) {
  const auto* pair = reinterpret_cast<const float*>(p);
  return {_mm256_broadcast_ss(pair), _mm256_broadcast_ss(pair + 1)};
}
POLYLORA_INLINE __m256 dot_bf16_half(__m256 acc, __m256i w, Bf16Pair x) {
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(-65536)));
  return _mm256_fmadd_ps(second, x.second, _mm256_fmadd_ps(first, x.first, acc));
}
POLYLORA_INLINE Vec dot_bf16(Vec acc, Row w, Bf16Pair x) {
  return {dot_bf16_half(acc.lo, w.lo, x), dot_bf16_half(acc.hi, w.hi, x)};
}
POLYLORA_INLINE __m256 round_bf16_half(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i carried = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 rounded = _mm256_castsi256_ps(_mm256_and_si256(carried, _mm256_set1_epi32(-65536)));
  return _mm256_blendv_ps(rounded, v,
                          _mm256_cmp_ps(v, v, _CMP_UNORD_Q));  // a NaN must not carry into infinity
}
/// Rounds to bf16, stores as activations, and returns what was stored.
POLYLORA_INLINE Vec store_bf16(std::byte* p, Vec v) {
  const Vec rounded = {round_bf16_half(v.lo), round_bf16_half(v.hi)};
  store(reinterpret_cast<float*>(p), rounded);
  return rounded;
}
// Panels made on the fly.
POLYLORA_INLINE Row zero_row() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
POLYLORA_INLINE void store_row(std::byte* p, Row row) {
  auto* halves = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(halves, row.lo);
  _mm256_storeu_si256(halves + 1, row.hi);
}
/// Byte `kByte` of every 4.
template <int kByte>
POLYLORA_INLINE IVec byte_of(Row row) {
  const __m256i mask = _mm256_set1_epi32(255);
  return {_mm256_and_si256(_mm256_srli_epi32(row.lo, 8 * kByte), mask),
          _mm256_and_si256(_mm256_srli_epi32(row.hi, 8 * kByte), mask)};
}
POLYLORA_INLINE __m256i pack_bf16_half(__m256 even, __m256 odd) {
  return _mm256_or_si256(
      _mm256_srli_epi32(_mm256_castps_si256(round_bf16_half(even)), 16),
      _mm256_and_si256(_mm256_castps_si256(round_bf16_half(odd)), _mm256_set1_epi32(-65536)));
}
/// Both rounded to bf16; even[i] and odd[i] are the two of lane i.
POLYLORA_INLINE Row pack_bf16(Vec even, Vec odd) {
  return {pack_bf16_half(even.lo, odd.lo), pack_bf16_half(even.hi, odd.hi)};
}
POLYLORA_INLINE void transpose4(__m256i& a, __m256i& b, __m256i& c, __m256i& d) {  // 4x4 of 8 bytes
  const __m256i ab_even = _mm256_unpacklo_epi64(a, b), ab_odd = _mm256_unpackhi_epi64(a, b);
  const __m256i cd_even = _mm256_unpacklo_epi64(c, d), cd_odd = _mm256_unpackhi_epi64(c, d);
  a = _mm256_permute2x128_si256(ab_even, cd_even, 0x20);
  b = _mm256_permute2x128_si256(ab_odd, cd_odd, 0x20);
  c = _mm256_permute2x128_si256(ab_even, cd_even, 0x31);
  d = _mm256_permute2x128_si256(ab_odd, cd_odd, 0x31);
}
/// From [k/2][n][2] to [n/2][k][2]: pairs of 16-bit values change places within each 8 bytes, then the 8x8
/// matrix of 8-byte elements is transposed in quarters.
POLYLORA_INLINE void transpose_pairs(Row (&r)[8]) {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  __m256i q[2][8];  // columns 0..3 and 4..7 of all rows
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    q[0][i] = _mm256_shuffle_epi8(r[i].lo, order);
    q[1][i] = _mm256_shuffle_epi8(r[i].hi, order);
  }
#pragma GCC unroll 2
  for (int side = 0; side < 2; ++side) {
    transpose4(q[side][0], q[side][1], q[side][2], q[side][3]);
    transpose4(q[side][4], q[side][5], q[side][6], q[side][7]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) r[4 * side + i] = {q[side][i], q[side][4 + i]};
  }
}
POLYLORA_INLINE void transpose8(__m256 (&v)[8]) {
  __m256 a[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  __m256 b[8];  // b[i+c]: columns c, c+4 of rows i..i+3
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    v[c] = _mm256_permute2f128_ps(b[c], b[c + 4], 0x20);
    v[c + 4] = _mm256_permute2f128_ps(b[c], b[c + 4], 0x31);
  }
}
/// v[r][c] becomes v[c][r].
POLYLORA_INLINE void transpose(Vec (&v)[kLanes]) {
  __m256 top_left[8], top_right[8], low_left[8], low_right[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    top_left[i] = v[i].lo;
    top_right[i] = v[i].hi;
    low_left[i] = v[8 + i].lo;
    low_right[i] = v[8 + i].hi;
  }
  transpose8(top_left);
  transpose8(top_right);
  transpose8(low_left);
  transpose8(low_right);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    v[i] = {top_left[i], low_left[i]};
    v[8 + i] = {top_right[i], low_right[i]};
  }
}

// int8 activations, multiplied in fours with unsigned weights. vpmaddubsw would saturate at 255*127*2, so
// bytes are widened: weights to even and odd unsigned words, activations to even and odd signed words.
struct Int8Quad {
  __m256i even, odd;
};
POLYLORA_INLINE Int8Quad splat_int8_quad(const std::byte* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  const __m256i bytes = _mm256_set1_epi32(quad);
  return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}
POLYLORA_INLINE __m256i dot_int8_half(__m256i acc, __m256i w, Int8Quad x) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), x.even);
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), x.odd);
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
POLYLORA_INLINE IVec dot_int8(IVec acc, Row w, Int8Quad x) {
  return {dot_int8_half(acc.lo, w.lo, x), dot_int8_half(acc.hi, w.hi, x)};
}

}  // namespace
}  // namespace polylora::cpu
