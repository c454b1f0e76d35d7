// The two products of attention for one block of KV pages, in the register tiles of each page format.
// Included by attention.inc.h inside the kernels' namespace.
//
// A format says how a query row, keys, probabilities and values are held, and offers:
//   narrow_query       a query row as score_tile wants it
//   score_tile         scores[r][page][16 tokens] = q[r] · keys, unscaled
//   Probabilities      those of one group of rows: narrow(), and value_tile's operands
//   value_tile         sums[r] = sums[r] * factors[r] + p[r] · values
// What a row does not see has probability 0 and adds exactly nothing: tiles may hold rows that see more and
// rows that see less.

constexpr int kBlockPages = kAttentionPages;
constexpr int kBlockTokens = kBlockPages * kPageTokens;
constexpr int kGroupRows = kValueTileRows;  // query rows of a tile
constexpr int kGroupPages = kValueTileCols;

/// 2^x for x <= 0, about 1 ulp: exactly 1 at 0, exactly 0 below -126. NaN stays NaN.
POLYLORA_INLINE Vec exp2_of_nonpositive(Vec x) {
  const Vec lowest = splat(-126.0f);
  const Vec clamped = max(lowest, x);
  const IVec exponent = round_to_int(clamped);
  const Vec r = sub(clamped, to_float(exponent));
  Vec p = splat(1.326472722e-3f);
  p = fma(p, r, splat(9.671512640e-3f));
  p = fma(p, r, splat(5.550733743e-2f));
  p = fma(p, r, splat(2.402224209e-1f));
  p = fma(p, r, splat(6.931469776e-1f));
  p = fma(p, r, splat(1.0f));
  return zero_below(mul(p, power_of_two(exponent)), x, lowest);
}

/// Some pages of a block, and what to fetch into the cache while they are used: pages of the block after it.
struct BlockPages {
  const std::byte* const* pages;
  const std::byte* const* next;
  int count;
};

struct ScoreArgs {
  BlockPages block;
  int64_t head_dim;
  size_t value_offset;  // bytes from a page's keys to its values
  const std::byte* q;
  size_t q_stride;  // bytes
  float* scores;    // a row has kBlockTokens
};

template <class Probabilities>
struct ValueArgs {
  BlockPages block;
  size_t values;       // bytes from a page's start to the tile's first value
  size_t step_stride;  // bytes from a row of values to the next
  const Probabilities& p;
  const float* factors;
  float* sums;
  int64_t sums_stride;  // floats
};

/// acc[r][page] += q[r] · keys[page]. `Kind` is the operands' type: F32, Bf16 or Int8.
template <class Kind, int kRows, int kPages, class Sum>
POLYLORA_INLINE void add_keys(Sum (&acc)[kRows][kPages], const ScoreArgs& a, const std::byte* q) {
  const size_t end = static_cast<size_t>((a.head_dim + Kind::kStep - 1) / Kind::kStep) * kRowBytes;
  for (size_t at = 0; at < end; at += kRowBytes, q += Kind::kStep * Kind::kBytes) {
    Row keys[kPages];
#pragma GCC unroll 4
    for (int c = 0; c < kPages; ++c) {
      keys[c] = load_row(a.block.pages[c] + at);
      fetch_early(a.block.next[c] + at);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto step = Kind::splat_step(q + static_cast<size_t>(r) * a.q_stride);
#pragma GCC unroll 4
      for (int c = 0; c < kPages; ++c) acc[r][c] = Kind::dot(acc[r][c], keys[c], step);
    }
  }
}

/// acc[r][c] += p[r] · values[c] over the block's tokens. A row of p has kBlockTokens.
template <class Kind, int kRows, int kCols, class Sum, class Probabilities>
POLYLORA_INLINE void add_values(Sum (&acc)[kRows][kCols], const ValueArgs<Probabilities>& a,
                                const std::byte* p) {
  constexpr size_t kProbabilityStride = size_t{kBlockTokens} * Kind::kBytes;
  for (int i = 0; i < a.block.count; ++i) {
    const std::byte* row = a.block.pages[i] + a.values;
    const std::byte* next = a.block.next[i] + a.values;
    for (int s = 0; s < kPageTokens / Kind::kStep; ++s, row += a.step_stride, next += a.step_stride) {
      Row values[kCols];
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) {
        values[c] = load_row(row + c * kRowBytes);
        fetch_early(next + c * kRowBytes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto step = Kind::splat_step(p + static_cast<size_t>(r) * kProbabilityStride);
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) acc[r][c] = Kind::dot(acc[r][c], values[c], step);
      }
      p += Kind::kStep * Kind::kBytes;
    }
  }
}

/// F32 or Bf16: both operands in the type of the pages.
template <class Kind>
struct FloatPages {
  static constexpr size_t query_bytes(int64_t padded_dim) { return static_cast<size_t>(padded_dim) * 4; }

  static void narrow_query(std::byte* out, const float* q, int64_t head_dim) {
    narrow<Kind>(out, q, head_dim);
  }

  template <int kRows, int kPages>
  static void score_tile(const ScoreArgs& a) {
    Vec acc[kRows][kPages];
    clear(acc);
    add_keys<Kind>(acc, a, a.q);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kPages; ++c) store(a.scores + r * kBlockTokens + c * kLanes, acc[r][c]);
    }
  }

  class Probabilities {
   public:
    static constexpr size_t kStride = size_t{kBlockTokens} * Kind::kBytes;

    /// From a row's scores and their maximum; the result is what they add to the row's total.
    POLYLORA_INLINE Vec narrow(int row, const ScoreArgs& a, float* scores, Vec maximum, Vec total) {
      std::byte* out = rows_ + static_cast<size_t>(row) * kStride;
      for (int c = 0; c < a.block.count; ++c, scores += kLanes, out += kLanes * Kind::kBytes) {
        total = add(total, Kind::store_narrow(out, exp2_of_nonpositive(sub(load(scores), maximum))));
      }
      return total;
    }
    const std::byte* rows() const { return rows_; }

   private:
    alignas(64) std::byte rows_[kGroupRows * kStride];
  };

  template <int kRows, int kCols>
  static void value_tile(const ValueArgs<Probabilities>& a) {
    Vec acc[kRows][kCols];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) {
        acc[r][c] = mul(load(a.sums + r * a.sums_stride + c * kLanes), splat(a.factors[r]));
      }
    }
    add_values<Kind>(acc, a, a.p.rows());
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) store(a.sums + r * a.sums_stride + c * kLanes, acc[r][c]);
    }
  }
};

/// The largest magnitude.
POLYLORA_INLINE float largest_of(const float* x, int64_t n) {
  Vec largest = splat(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) largest = max(largest, abs(lanes_of(x + i, n - i)));
  return reduce_max(largest);
}

/// Fixed point with 15 bits and a scale per row, as two int8 planes: value = scale * (128 * high + low).
/// Times biased unsigned bytes u, Σ value * (u - 128) is an exact integer, twice the bf16 products' precision
/// at their price.
struct Planes {
  static constexpr float kLargest = 127.0f * 128.0f;

  float scale;
  int32_t correction;  // -128 * Σ (128 * high + low)

  /// Of `n` floats, none larger than `largest` in magnitude. Planes are written in whole vectors.
  POLYLORA_INLINE static Planes split(const float* x, int64_t n, float largest, std::byte* high,
                                      std::byte* low) {
    const bool tiny = !(largest >= kTinyActivation);
    const Vec inverse = splat(tiny ? 0.0f : kLargest / largest);
    IVec sum = isplat(0);
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec value = mul(lanes_of(x + i, n - i), inverse);
      const IVec h = round_to_int(mul(value, splat(1.0f / 128.0f)));
      const IVec l = round_to_int(sub(value, mul(to_float(h), splat(128.0f))));
      store_int8(reinterpret_cast<int8_t*>(high + i), h);
      store_int8(reinterpret_cast<int8_t*>(low + i), l);
      sum = iadd(sum, iadd(shift_left<7>(h), l));
    }
    return {tiny ? 0.0f : largest / kLargest, -128 * reduce_add(sum)};
  }
};

/// Keys and values as biased bytes with a scale per token, query rows and probabilities as Planes. A value's
/// scale is multiplied into its probability before that is rounded, a key's into the score.
struct Int8Pages {
  struct Int8 {
    static constexpr int kStep = 4;  // dims (keys) or tokens (values) per 32 bits
    static constexpr int kBytes = 1;
    POLYLORA_INLINE static Int8Quad splat_step(const std::byte* x) { return splat_int8_quad(x); }
    POLYLORA_INLINE static IVec dot(IVec acc, Row w, Int8Quad x) { return dot_int8(acc, w, x); }
  };

  static constexpr size_t query_bytes(int64_t padded_dim) { return static_cast<size_t>(padded_dim) * 4; }

  static void narrow_query(std::byte* out, const float* q, int64_t head_dim) {
    const int64_t padded_dim = round_up(head_dim, kLanes);
    const Planes planes = Planes::split(q, head_dim, largest_of(q, head_dim), out, out + padded_dim);
    __builtin_memcpy(out + 2 * padded_dim, &planes, sizeof planes);
  }

  template <int kRows, int kPages>
  static void score_tile(const ScoreArgs& a) {
    const int64_t padded_dim = round_up(a.head_dim, kLanes);
    IVec acc[kRows][kPages];
    clear_sums(acc);
    const std::byte* q = a.q;
    for (int plane = 0; plane < 2; ++plane, q += padded_dim) {
      raise_sums(acc);
      add_keys<Int8>(acc, a, q);
    }
    Vec scales[kPages];
#pragma GCC unroll 4
    for (int c = 0; c < kPages; ++c) scales[c] = load_floats(a.block.pages[c] + a.value_offset - kRowBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Planes planes;
      __builtin_memcpy(&planes, a.q + static_cast<size_t>(r) * a.q_stride + 2 * padded_dim, sizeof planes);
#pragma GCC unroll 4
      for (int c = 0; c < kPages; ++c) {
        const Vec sum = to_float(iadd(acc[r][c], isplat(planes.correction)));
        store(a.scores + r * kBlockTokens + c * kLanes, mul(sum, mul(splat(planes.scale), scales[c])));
      }
    }
  }

  static constexpr size_t kPlaneBytes = size_t{kGroupRows} * kBlockTokens;

  class Probabilities {
   public:
    /// From a row's scores, which it uses up, and their maximum; the result is what they add to the row's
    /// total.
    POLYLORA_INLINE Vec narrow(int row, const ScoreArgs& a, float* scores, Vec maximum, Vec total) {
      Vec largest = splat(0.0f);
      for (int c = 0; c < a.block.count; ++c) {
        const Vec p = exp2_of_nonpositive(sub(load(scores + c * kLanes), maximum));
        total = add(total, p);
        const Vec scaled = mul(p, load_floats(a.block.pages[c] + 2 * a.value_offset - kRowBytes));
        largest = max(largest, scaled);
        store(scores + c * kLanes, scaled);
      }
      planes_[row] = Planes::split(scores, int64_t{a.block.count} * kLanes, reduce_max(largest),
                                   bytes_[0][row], bytes_[1][row]);
      return total;
    }
    const std::byte* bytes() const { return bytes_[0][0]; }  // kPlaneBytes of high ones, then of low ones
    const Planes& planes(int row) const { return planes_[row]; }

   private:
    alignas(64) std::byte bytes_[2][kGroupRows][kBlockTokens];
    Planes planes_[kGroupRows];
  };

  template <int kRows, int kCols>
  static void value_tile(const ValueArgs<Probabilities>& a) {
    IVec acc[kRows][kCols];
    clear_sums(acc);
    const std::byte* p = a.p.bytes();
    for (int plane = 0; plane < 2; ++plane, p += kPlaneBytes) {
      raise_sums(acc);
      add_values<Int8>(acc, a, p);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Planes& planes = a.p.planes(r);
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) {
        float* sums = a.sums + r * a.sums_stride + c * kLanes;
        const Vec sum = to_float(iadd(acc[r][c], isplat(planes.correction)));
        store(sums, fma(sum, splat(planes.scale), mul(load(sums), splat(a.factors[r]))));
      }
    }
  }

 private:
  POLYLORA_INLINE static Vec load_floats(const std::byte* p) {
    return load(reinterpret_cast<const float*>(p));
  }

  template <int kRows, int kCols>
  POLYLORA_INLINE static void clear_sums(IVec (&acc)[kRows][kCols]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) acc[r][c] = isplat(0);
    }
  }

  /// Before the second plane the first one's sums are worth 128 times as much; before the first they are 0.
  template <int kRows, int kCols>
  POLYLORA_INLINE static void raise_sums(IVec (&acc)[kRows][kCols]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) acc[r][c] = shift_left<7>(acc[r][c]);
    }
  }
};
