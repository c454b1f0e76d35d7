// The kernels' vector of 16 floats in the compiler's own vector types: any machine, no intrinsics, no fused
// multiply-add (the file is compiled with -ffp-contract=off).
// Included by one translation unit only; everything is in its anonymous namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#define POLYLORA_INLINE inline __attribute__((always_inline))

namespace polylora::cpu {
namespace {

constexpr const char* kIsaDescription = "generic";

constexpr int kFloatTileRows = 2;
constexpr int kFloatTileCols = 1;
constexpr int kFloatNarrowRows = 2;
constexpr int kQuantTileRows = 2;
constexpr int kQuantTileCols = 1;
constexpr int kQuantNarrowRows = 2;
constexpr int kValueTileRows = 2;
constexpr int kValueTileCols = 1;

typedef float Vec __attribute__((vector_size(64)));      // 16 floats
typedef int32_t IVec __attribute__((vector_size(64)));   // 16 int32, and a mask (-1 = true) where compared
typedef uint32_t UVec __attribute__((vector_size(64)));  // its bits where sums may wrap
using Row = IVec;                                        // 64 raw bytes of a panel

template <typename To, typename From>
POLYLORA_INLINE To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
template <typename T>
POLYLORA_INLINE T load_raw(const void* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

POLYLORA_INLINE Vec splat(float x) {
  return Vec{} + x;
}
POLYLORA_INLINE Vec load(const float* p) {
  return load_raw<Vec>(p);
}
POLYLORA_INLINE Vec load_n(const float* p, int64_t n) {
  Vec v{};
  if (n > 0) __builtin_memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
POLYLORA_INLINE void store(float* p, Vec v) {
  __builtin_memcpy(p, &v, sizeof v);
}
POLYLORA_INLINE void store_n(float* p, Vec v, int64_t n) {
  if (n > 0) __builtin_memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}

/// The bits of `yes` where `mask` has ones, of `no` elsewhere.
POLYLORA_INLINE Vec select(IVec mask, Vec yes, Vec no) {
  return bits_of<Vec>((bits_of<IVec>(yes) & mask) | (bits_of<IVec>(no) & ~mask));
}

POLYLORA_INLINE Vec add(Vec a, Vec b) {
  return a + b;
}
POLYLORA_INLINE Vec sub(Vec a, Vec b) {
  return a - b;
}
POLYLORA_INLINE Vec mul(Vec a, Vec b) {
  return a * b;
}
POLYLORA_INLINE Vec div(Vec a, Vec b) {
  return a / b;
}
POLYLORA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return a * b + c;
}
POLYLORA_INLINE Vec fused(Vec a, Vec b, Vec c) {  // a·b + c rounded once, on every instruction set
  for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
POLYLORA_INLINE Vec sqrt(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
POLYLORA_INLINE Vec max(Vec a, Vec b) {
  return select(a > b, a, b);
}  // b where either is NaN
POLYLORA_INLINE Vec min(Vec a, Vec b) {
  return select(a < b, a, b);
}  // b where either is NaN
POLYLORA_INLINE Vec abs(Vec a) {
  return bits_of<Vec>(bits_of<IVec>(a) & 0x7fffffff);
}
POLYLORA_INLINE float reduce_add(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  }
  return a[0];
}
POLYLORA_INLINE float reduce_max(Vec a) {
  float largest = a[0];
  for (int i = 1; i < kLanes; ++i) largest = largest > a[i] ? largest : a[i];
  return largest;
}
/// Whether a > b in any lane.
POLYLORA_INLINE bool any_greater(Vec a, Vec b) {
  const IVec greater = a > b;
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= greater[i];
  return any != 0;
}

/// `v` in lanes [begin, end), `other` elsewhere.
POLYLORA_INLINE Vec keep_lanes(Vec v, Vec other, int begin, int end) {
  const IVec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return select((lane >= begin) & (lane < end), v, other);
}
/// `v` where x >= bound or x is NaN, 0 elsewhere.
POLYLORA_INLINE Vec zero_below(Vec v, Vec x, Vec bound) {
  return select(x < bound, Vec{}, v);
}

POLYLORA_INLINE IVec isplat(int32_t x) {
  return IVec{} + x;
}
/// Wraps, as the machine's does: sums of packed bytes and what a NaN was rounded to need not fit.
POLYLORA_INLINE IVec iadd(IVec a, IVec b) {
  return bits_of<IVec>(bits_of<UVec>(a) + bits_of<UVec>(b));
}
POLYLORA_INLINE int32_t reduce_add(IVec a) {
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += a[i];
  return sum;
}
POLYLORA_INLINE Vec to_float(IVec a) {
  return __builtin_convertvector(a, Vec);
}
/// Rounds to nearest even, |a| < 2^22: adding 1.5 * 2^23 leaves the integer in the low mantissa bits.
POLYLORA_INLINE IVec round_to_int(Vec a) {
  constexpr float kMagic = 12582912.0f;
  return bits_of<IVec>(bits_of<UVec>(a + kMagic) - bits_of<UVec>(splat(kMagic)));
}
POLYLORA_INLINE Vec power_of_two(IVec e) {
  return bits_of<Vec>((e + 127) << 23);
}  // e in [-126, 127]
POLYLORA_INLINE void store_int8(int8_t* p, IVec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(v[i]);
}
template <int kBits>
POLYLORA_INLINE IVec shift_left(IVec a) {
  return a << kBits;
}

POLYLORA_INLINE Row load_row(const std::byte* p) {
  return load_raw<Row>(p);
}
POLYLORA_INLINE Vec row_floats(Row row) {
  return bits_of<Vec>(row);
}
POLYLORA_INLINE Row low_nibbles(Row row) {
  return row & 0x0f0f0f0f;
}
POLYLORA_INLINE Row high_nibbles(Row row) {
  return (row >> 4) & 0x0f0f0f0f;
}
/// Finite f16 only (packing refuses others): the exponent is rebiased by a multiplication, which also turns
/// subnormals into what they are worth.
POLYLORA_INLINE Vec load_f16(const std::byte* p) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  const IVec h = __builtin_convertvector(load_raw<Halves>(p), IVec);
  const Vec magnitude = bits_of<Vec>((h & 0x7fff) << 13) * 0x1p112f;
  return bits_of<Vec>(bits_of<IVec>(magnitude) | ((h & 0x8000) << 16));
}

// bf16 activations: kept as the floats they stand for, because this machine multiplies floats.
constexpr int kBf16Bytes = 4;
struct Bf16Pair {
  float first, second;
};
POLYLORA_INLINE Bf16Pair splat_bf16_pair(const std::byte* p) {
  return load_raw<Bf16Pair>(p);
}
POLYLORA_INLINE Vec dot_bf16(Vec acc, Row w, Bf16Pair x) {
  const Vec first = bits_of<Vec>(w << 16);
  const Vec second = bits_of<Vec>(w & -65536);
  return second * x.second + (first * x.first + acc);
}
POLYLORA_INLINE Vec round_bf16(Vec v) {
  const IVec bits = bits_of<IVec>(v);
  const Vec rounded = bits_of<Vec>((bits + 0x7fff + ((bits >> 16) & 1)) & -65536);
  return select(v == v, rounded, v);  // a NaN must not carry into infinity
}
/// Rounds to bf16, stores as activations, and returns what was stored.
POLYLORA_INLINE Vec store_bf16(std::byte* p, Vec v) {
  const Vec rounded = round_bf16(v);
  store(reinterpret_cast<float*>(p), rounded);
  return rounded;
}
// Panels made on the fly.
POLYLORA_INLINE Row zero_row() {
  return Row{};
}
POLYLORA_INLINE void store_row(std::byte* p, Row row) {
  __builtin_memcpy(p, &row, sizeof row);
}
/// Byte `kByte` of every 4.
template <int kByte>
POLYLORA_INLINE IVec byte_of(Row row) {
  return (row >> (8 * kByte)) & 255;
}
/// Both rounded to bf16; even[i] and odd[i] are the two of lane i.
POLYLORA_INLINE Row pack_bf16(Vec even, Vec odd) {
  return ((bits_of<IVec>(round_bf16(even)) >> 16) & 0xffff) | (bits_of<IVec>(round_bf16(odd)) & -65536);
}
/// From [k/2][n][2] to [n/2][k][2].
POLYLORA_INLINE void transpose_pairs(Row (&r)[8]) {
  uint16_t in[8][kLanes][2];
  uint16_t out[8][kLanes][2];
  __builtin_memcpy(in, r, sizeof in);
  for (int n = 0; n < kLanes; ++n) {
    for (int k = 0; k < kLanes; ++k) out[n / 2][k][n % 2] = in[k / 2][n][k % 2];
  }
  __builtin_memcpy(r, out, sizeof out);
}
/// v[r][c] becomes v[c][r].
POLYLORA_INLINE void transpose(Vec (&v)[kLanes]) {
  float in[kLanes][kLanes];
  float out[kLanes][kLanes];
  __builtin_memcpy(in, v, sizeof in);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) out[j][i] = in[i][j];
  }
  __builtin_memcpy(v, out, sizeof out);
}

// int8 activations, multiplied in fours with unsigned weights.
struct Int8Quad {
  int8_t x[4];
};
POLYLORA_INLINE Int8Quad splat_int8_quad(const std::byte* p) {
  return load_raw<Int8Quad>(p);
}
POLYLORA_INLINE IVec dot_int8(IVec acc, Row w, Int8Quad x) {
  for (int i = 0; i < 4; ++i) acc += ((w >> (8 * i)) & 255) * int32_t{x.x[i]};
  return acc;
}

}  // namespace
}  // namespace polylora::cpu
