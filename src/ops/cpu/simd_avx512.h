// The kernels' vector of 16 floats on AVX-512 with BF16 and VNNI (Zen 4, Sapphire Rapids and later).
// Included by one translation unit only; everything is in its anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define POLYLORA_INLINE inline __attribute__((always_inline))

namespace polylora::cpu {
namespace {

constexpr const char* kIsaDescription = "avx512-bf16-vnni";

// Tile sizes: accumulators plus one weight row per column and one broadcast fit 32 registers.
constexpr int kFloatTileRows = 14;
constexpr int kFloatTileCols = 2;
constexpr int kFloatNarrowRows = 28;
constexpr int kQuantTileRows = 6;
constexpr int kQuantTileCols = 2;
constexpr int kQuantNarrowRows = 12;
constexpr int kValueTileRows = 6;
constexpr int kValueTileCols = 4;

using Vec = __m512;    // 16 floats
using IVec = __m512i;  // 16 int32
using Row = __m512i;   // 64 raw bytes of a panel

POLYLORA_INLINE __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}

POLYLORA_INLINE Vec splat(float x) {
  return _mm512_set1_ps(x);
}
POLYLORA_INLINE Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
POLYLORA_INLINE Vec load_n(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
POLYLORA_INLINE void store(float* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
POLYLORA_INLINE void store_n(float* p, Vec v, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

POLYLORA_INLINE Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
POLYLORA_INLINE Vec sub(Vec a, Vec b) {
  return _mm512_sub_ps(a, b);
}
POLYLORA_INLINE Vec mul(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
POLYLORA_INLINE Vec div(Vec a, Vec b) {
  return _mm512_div_ps(a, b);
}
POLYLORA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
POLYLORA_INLINE Vec fused(Vec a, Vec b, Vec c) {  // a·b + c rounded once, on every instruction set
  return fma(a, b, c);
}
POLYLORA_INLINE Vec sqrt(Vec a) {
  return _mm512_sqrt_ps(a);
}
POLYLORA_INLINE Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}  // b where either is NaN
POLYLORA_INLINE Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}  // b where either is NaN
POLYLORA_INLINE Vec abs(Vec a) {
  return _mm512_abs_ps(a);
}
POLYLORA_INLINE float reduce_add(Vec a) {
  return _mm512_reduce_add_ps(a);
}
POLYLORA_INLINE float reduce_max(Vec a) {
  return _mm512_reduce_max_ps(a);
}
/// Whether a > b in any lane.
POLYLORA_INLINE bool any_greater(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}

/// `v` in lanes [begin, end), `other` elsewhere.
POLYLORA_INLINE Vec keep_lanes(Vec v, Vec other, int begin, int end) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(first_lanes(end) & ~first_lanes(begin)), other, v);
}
/// `v` where x >= bound or x is NaN, 0 elsewhere.
POLYLORA_INLINE Vec zero_below(Vec v, Vec x, Vec bound) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), v);
}
/// The bits of `yes` where `mask` has ones, of `no` elsewhere.
POLYLORA_INLINE Vec select(IVec mask, Vec yes, Vec no) {
  return _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(mask, _mm512_castps_si512(yes), _mm512_castps_si512(no), 0xca));
}

POLYLORA_INLINE IVec isplat(int32_t x) {
  return _mm512_set1_epi32(x);
}
POLYLORA_INLINE IVec iadd(IVec a, IVec b) {
  return _mm512_add_epi32(a, b);
}
POLYLORA_INLINE int32_t reduce_add(IVec a) {
  return _mm512_reduce_add_epi32(a);
}
POLYLORA_INLINE Vec to_float(IVec a) {
  return _mm512_cvtepi32_ps(a);
}
POLYLORA_INLINE IVec round_to_int(Vec a) {
  return _mm512_cvtps_epi32(a);
}
POLYLORA_INLINE Vec power_of_two(IVec e) {  // 2^e for e in [-126, 127]
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(e, _mm512_set1_epi32(127)), 23));
}
POLYLORA_INLINE void store_int8(int8_t* p, IVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(v));
}
template <int kBits>
POLYLORA_INLINE IVec shift_left(IVec a) {
  return _mm512_slli_epi32(a, kBits);
}

POLYLORA_INLINE Row load_row(const std::byte* p) {
  return _mm512_loadu_si512(p);
}
POLYLORA_INLINE Vec row_floats(Row row) {
  return _mm512_castsi512_ps(row);
}
POLYLORA_INLINE Row low_nibbles(Row row) {
  return _mm512_and_si512(row, _mm512_set1_epi8(15));
}
POLYLORA_INLINE Row high_nibbles(Row row) {
  return low_nibbles(_mm512_srli_epi16(row, 4));
}
POLYLORA_INLINE Vec load_f16(const std::byte* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// bf16 activations: 2 bytes each, multiplied in pairs.
constexpr int kBf16Bytes = 2;
using Bf16Pair = __m512bh;
POLYLORA_INLINE Bf16Pair splat_bf16_pair(const std::byte* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}
POLYLORA_INLINE Vec dot_bf16(Vec acc, Row w, Bf16Pair x) {
  return _mm512_dpbf16_ps(acc, (__m512bh)w, x);
}
/// Rounds to bf16, stores as activations, and returns what was stored.
POLYLORA_INLINE Vec store_bf16(std::byte* p, Vec v) {
  const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}
// Panels made on the fly.
POLYLORA_INLINE Row zero_row() {
  return _mm512_setzero_si512();
}
POLYLORA_INLINE void store_row(std::byte* p, Row row) {
  _mm512_storeu_si512(p, row);
}
/// Byte `kByte` of every 4.
template <int kByte>
POLYLORA_INLINE IVec byte_of(Row row) {
  return _mm512_and_si512(_mm512_srli_epi32(row, 8 * kByte), _mm512_set1_epi32(255));
}
/// Both rounded to bf16; even[i] and odd[i] are the two of lane i.
POLYLORA_INLINE Row pack_bf16(Vec even, Vec odd) {
  const __m512i interleave =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}
/// From [k/2][n][2] to [n/2][k][2]: pairs of 16-bit values change places within each 8 bytes, then the 8x8
/// matrix of 8-byte elements is transposed.
POLYLORA_INLINE void transpose_pairs(Row (&r)[8]) {
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  __m512i a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = _mm512_shuffle_epi8(r[i], order);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {  // b[i]: columns 0 2 4 6 of rows i, i+1; b[i+1]: columns 1 3 5 7
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8;
       i += 4) {  // a[i]: columns 0 4, a[i+1]: 1 5, a[i+2]: 2 6, a[i+3]: 3 7, of rows i..i+3
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      a[i + odd] = _mm512_shuffle_i64x2(b[i + odd], b[i + 2 + odd], 0x88);
      a[i + 2 + odd] = _mm512_shuffle_i64x2(b[i + odd], b[i + 2 + odd], 0xdd);
    }
  }
  // a[i] holds (column 0 rows 0,1 | column 4 rows 0,1 | column 0 rows 2,3 | column 4 rows 2,3).
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i64x2(a[i], a[i + 4], 0x88);
    r[i + 4] = _mm512_shuffle_i64x2(a[i], a[i + 4], 0xdd);
  }
}
/// v[r][c] becomes v[c][r].
POLYLORA_INLINE void transpose(Vec (&v)[kLanes]) {
  __m512 a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // b[i+c]: columns c, c+4, c+8, c+12 of rows i..i+3
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512d first = _mm512_castps_pd(a[i + half]), second = _mm512_castps_pd(a[i + 2 + half]);
      b[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
      b[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_top = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x88);       // columns c, c+8; rows 0..7
    const __m512 odd_top = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xdd);        // columns c+4, c+12
    const __m512 even_low = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0x88);  // rows 8..15
    const __m512 odd_low = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0xdd);
    v[c] = _mm512_shuffle_f32x4(even_top, even_low, 0x88);
    v[c + 8] = _mm512_shuffle_f32x4(even_top, even_low, 0xdd);
    v[c + 4] = _mm512_shuffle_f32x4(odd_top, odd_low, 0x88);
    v[c + 12] = _mm512_shuffle_f32x4(odd_top, odd_low, 0xdd);
  }
}

// int8 activations, multiplied in fours with unsigned weights.
using Int8Quad = __m512i;
POLYLORA_INLINE Int8Quad splat_int8_quad(const std::byte* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return _mm512_set1_epi32(quad);
}
POLYLORA_INLINE IVec dot_int8(IVec acc, Row w, Int8Quad x) {
  return _mm512_dpbusd_epi32(acc, w, x);
}

}  // namespace
}  // namespace polylora::cpu
