// The kernels, once, over the 16-float vector of simd_<isa>.h. Included by each kernels_<isa>.cc after its
// shim.
//
// Batch invariance lives here: every output element is one chain of fused (or, on generic, of separate)
// multiply and add over ascending k, so that tile shapes, batch sizes and threads cannot change a bit of it.
//
// No std headers: see kernels.h.

namespace polylora::cpu {
namespace {

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

POLYLORA_INLINE float load_float(const std::byte* p) {
  float value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
POLYLORA_INLINE int32_t load_int(const std::byte* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

// --- elementary functions
// ---------------------------------------------------------------------------------------

/// exp(x), about 1 ulp; exactly 0 below -87.3, saturates above 88, NaN stays NaN. Cephes' polynomial.
POLYLORA_INLINE Vec exp(Vec x) {
  const Vec lowest = splat(-87.3f);
  const Vec clamped = min(splat(88.0f), max(lowest, x));
  const IVec exponent = round_to_int(mul(clamped, splat(1.44269504f)));
  const Vec n = to_float(exponent);
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), clamped));
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), splat(1.0f));
  return zero_below(mul(p, power_of_two(exponent)), x, lowest);
}

/// x / (1 + exp(-slope))
POLYLORA_INLINE Vec gated(Vec x, Vec slope) {
  return div(x, add(splat(1.0f), exp(sub(splat(0.0f), slope))));
}

POLYLORA_INLINE Vec tanh(Vec x) {  // absolute error about 1e-7
  return sub(splat(1.0f), div(splat(2.0f), add(splat(1.0f), exp(add(x, x)))));
}

// --- element types of panels and activations
// ----------------------------------------------------------------------

struct F32 {
  static constexpr int kStep = 1;   // k per 64-byte row
  static constexpr int kBytes = 4;  // of an activation
  POLYLORA_INLINE static Vec splat_step(const std::byte* x) { return splat(load_float(x)); }
  POLYLORA_INLINE static Vec dot(Vec acc, Row w, Vec x) { return fma(row_floats(w), x, acc); }
  POLYLORA_INLINE static Vec store_narrow(std::byte* out, Vec v) {
    store(reinterpret_cast<float*>(out), v);
    return v;
  }
};

struct Bf16 {
  static constexpr int kStep = 2;
  static constexpr int kBytes = kBf16Bytes;
  POLYLORA_INLINE static Bf16Pair splat_step(const std::byte* x) { return splat_bf16_pair(x); }
  POLYLORA_INLINE static Vec dot(Vec acc, Row w, Bf16Pair x) { return dot_bf16(acc, w, x); }
  POLYLORA_INLINE static Vec store_narrow(std::byte* out, Vec v) { return store_bf16(out, v); }
};

// --- matrix products
// --------------------------------------------------------------------------------------------

/// Where the 64-byte rows of a tile lie: column c, step s at base + c * column_stride + s * step_stride.
struct Grid {
  const std::byte* base;
  size_t column_stride;
  size_t step_stride;
  size_t prefetch_ahead;
};

/// Into L2: from there the loads that follow are fast enough, and more requests may be under way than to L1.
POLYLORA_INLINE void fetch_early(const std::byte* p) {
  __builtin_prefetch(p, 0, 2);
}

/// acc[r][c] += x[r] · w[c] over `steps` ascending steps.
template <class Kind, int kRows, int kCols>
POLYLORA_INLINE void accumulate(Vec (&acc)[kRows][kCols], const Grid& w, int64_t steps, const std::byte* x,
                                size_t x_stride) {
  constexpr size_t kStepBytes = size_t{Kind::kStep} * Kind::kBytes;
  const std::byte* row = w.base;
  for (int64_t s = 0; s < steps; ++s, row += w.step_stride, x += kStepBytes) {
    Row weights[kCols];
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) {
      weights[c] = load_row(row + static_cast<size_t>(c) * w.column_stride);
      if constexpr (kRows >
                    2) {  // one or two rows are a plain read stream, which the hardware prefetches best
        fetch_early(row + static_cast<size_t>(c) * w.column_stride + w.prefetch_ahead);
      }
    }
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r) {
      const auto step = Kind::splat_step(x + static_cast<size_t>(r) * x_stride);
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) acc[r][c] = Kind::dot(acc[r][c], weights[c], step);
    }
  }
}

/// One tile of a gemm: rows from m_begin, columns from panel p_begin.
struct Tile {
  int64_t m_begin;
  int64_t p_begin;
  size_t prefetch_ahead;
};

POLYLORA_INLINE void write_lanes(Vec sum, const GemmArgs& a, int64_t m, int64_t n) {
  float* y = a.y + m * a.y_stride + n;
  const int64_t lanes = a.cols - n;
  if (lanes >= kLanes) {
    if (a.bias != nullptr) sum = add(sum, load(a.bias + n));
    if (a.accumulate) sum = add(sum, load(y));
    store(y, sum);
    return;
  }
  if (a.bias != nullptr) sum = add(sum, load_n(a.bias + n, lanes));
  if (a.accumulate) sum = add(sum, load_n(y, lanes));
  store_n(y, sum, lanes);
}

template <bool kAdd, int kRows, int kCols>
POLYLORA_INLINE void write_whole(const Vec (&acc)[kRows][kCols], float* y, int64_t stride) {
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r, y += stride) {
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) {
      float* at = y + c * kLanes;
      store(at, kAdd ? add(acc[r][c], load(at)) : acc[r][c]);
    }
  }
}

template <int kRows, int kCols>
POLYLORA_INLINE void write_tile(const Vec (&acc)[kRows][kCols], const GemmArgs& a, const Tile& at) {
  const int64_t n = at.p_begin * kLanes;
  if (a.bias == nullptr && a.cols - n >= kCols * kLanes) {
    float* y = a.y + at.m_begin * a.y_stride + n;
    a.accumulate ? write_whole<true>(acc, y, a.y_stride) : write_whole<false>(acc, y, a.y_stride);
    return;
  }
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) write_lanes(acc[r][c], a, at.m_begin + r, (at.p_begin + c) * kLanes);
  }
}

/// Asks for the lines that the tile will write, so that its stores need not miss one after another: short
/// sums leave little time to hide that.
template <int kRows, int kCols>
POLYLORA_INLINE void prefetch_tile(const GemmArgs& a, const Tile& at) {
  const float* y = a.y + at.m_begin * a.y_stride + at.p_begin * kLanes;
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r, y += a.y_stride) {
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) __builtin_prefetch(y + c * kLanes, 1);
  }
}

template <int kRows, int kCols>
POLYLORA_INLINE void clear(Vec (&acc)[kRows][kCols]) {
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) acc[r][c] = splat(0.0f);
  }
}

template <class Kind>
struct FloatTile {
  static constexpr int kMaxRows = kFloatTileRows;
  static constexpr int kMaxCols = kFloatTileCols;
  static constexpr int kNarrowRows = kFloatNarrowRows;

  template <int kRows, int kCols>
  static void run(const GemmArgs& a, const Tile& at) {
    const Grid grid{a.panels + static_cast<size_t>(at.p_begin) * a.panel_bytes, a.panel_bytes, kRowBytes,
                    at.prefetch_ahead};
    if constexpr (kRows > 2) prefetch_tile<kRows, kCols>(a, at);
    Vec acc[kRows][kCols];
    clear(acc);
    accumulate<Kind>(acc, grid, (a.k + Kind::kStep - 1) / Kind::kStep,
                     a.x + static_cast<size_t>(at.m_begin) * a.x_stride, a.x_stride);
    write_tile(acc, a, at);
  }
};

/// Where the groups of a q8 (kNibbles false) or q4 panel lie: kernels.h describes it.
template <bool kNibbles, bool kMin>
struct QuantLayout {
  static constexpr int64_t kGroupsPerHeader = kMin ? 1 : 2;
  static constexpr int64_t kScaleBytes = kRowBytes / kGroupsPerHeader;  // of a group, with its minima
  static constexpr int64_t kGroupRows = kNibbles ? kGroup / 8 : kGroup / 4;
  static constexpr int64_t kGroupBytes = kGroupRows * kRowBytes;

  static constexpr int64_t rows_at(int64_t group) {  // bytes from the panel's begin
    return (group / kGroupsPerHeader + 1) * kRowBytes + group * kGroupBytes;
  }
  static constexpr int64_t scales_at(int64_t group) {
    const int64_t within = group % kGroupsPerHeader;
    return rows_at(group - within) - kRowBytes + within * kScaleBytes;
  }
};

/// q8 (kNibbles false) and q4 tiles. Within a group of 32 the sums are exact integers; across groups
///   acc += sum * (w_scale * x_scale) [+ w_min * (x_scale * Σ x)]
/// A symmetric zero point enters the integer sum as its start value, -zero_point * Σ x.
template <bool kNibbles, bool kMin>
struct QuantTile {
  static constexpr int kMaxRows = kQuantTileRows;
  static constexpr int kNarrowRows = kQuantNarrowRows;
  static constexpr int kMaxCols = kQuantTileCols;
  using Layout = QuantLayout<kNibbles, kMin>;

  template <int kRows, int kCols>
  POLYLORA_INLINE static void dot_row(IVec (&sum)[kRows][kCols], const Row (&w)[kCols], const std::byte* x,
                                      size_t x_stride) {
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r) {
      const Int8Quad quad = splat_int8_quad(x + static_cast<size_t>(r) * x_stride);
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) sum[r][c] = dot_int8(sum[r][c], w[c], quad);
    }
  }

  template <int kRows, int kCols>
  POLYLORA_INLINE static void dot_group(IVec (&sum)[kRows][kCols], const std::byte* w, size_t column_stride,
                                        const std::byte* x, size_t x_stride, size_t ahead) {
#pragma GCC unroll 8
    for (size_t s = 0; s < Layout::kGroupRows; ++s, w += kRowBytes) {
      Row rows[kCols];
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) {
        rows[c] = load_row(w + static_cast<size_t>(c) * column_stride);
        if constexpr (kRows > 2) fetch_early(w + static_cast<size_t>(c) * column_stride + ahead);
      }
      if constexpr (!kNibbles) {
        dot_row(sum, rows, x + 4 * s, x_stride);
      } else {
        Row half[kCols];
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) half[c] = low_nibbles(rows[c]);
        dot_row(sum, half, x + 8 * s, x_stride);
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) half[c] = high_nibbles(rows[c]);
        dot_row(sum, half, x + 8 * s + 4, x_stride);
      }
    }
  }

  template <int kRows, int kCols>
  static void run(const GemmArgs& a, const Tile& at) {
    const std::byte* panel = a.panels + static_cast<size_t>(at.p_begin) * a.panel_bytes;
    const std::byte* x = a.x + static_cast<size_t>(at.m_begin) * a.x_stride;
    const std::byte* x_groups = x + a.k;
    Vec acc[kRows][kCols];
    clear(acc);
    const int64_t groups = a.k / kGroup;
    for (int64_t g = 0; g < groups; ++g, x += kGroup, x_groups += 8) {
      IVec sum[kRows][kCols];
      start_group(sum, x_groups, a.x_stride);
      if constexpr (kRows > 2) {
        for (int c = 0; c < kCols; ++c)
          fetch_early(panel + static_cast<size_t>(c) * a.panel_bytes + Layout::scales_at(g) +
                      at.prefetch_ahead);
      }
      dot_group(sum, panel + Layout::rows_at(g), a.panel_bytes, x, a.x_stride, at.prefetch_ahead);
      add_group(acc, sum, panel + Layout::scales_at(g), a.panel_bytes, x_groups, a.x_stride);
    }
    write_tile(acc, a, at);
  }

  template <int kRows, int kCols>
  POLYLORA_INLINE static void start_group(IVec (&sum)[kRows][kCols], const std::byte* x_groups,
                                          size_t x_stride) {
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r) {
      const std::byte* offset = x_groups + static_cast<size_t>(r) * x_stride + 4;
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) sum[r][c] = isplat(kMin ? 0 : load_int(offset));
    }
  }

  template <int kRows, int kCols>
  POLYLORA_INLINE static void add_group(Vec (&acc)[kRows][kCols], const IVec (&sum)[kRows][kCols],
                                        const std::byte* header, size_t column_stride,
                                        const std::byte* x_groups, size_t x_stride) {
#pragma GCC unroll 4
    for (int c = 0; c < kCols; ++c) {
      const std::byte* column = header + static_cast<size_t>(c) * column_stride;
      const Vec w_scale = load_f16(column);
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r) {
        const Vec x_scale = splat(load_float(x_groups + static_cast<size_t>(r) * x_stride));
        acc[r][c] = fma(to_float(sum[r][c]), mul(w_scale, x_scale), acc[r][c]);
      }
      if constexpr (kMin) {
        const Vec w_min = load_f16(column + 32);
#pragma GCC unroll 32
        for (int r = 0; r < kRows; ++r) {
          const Vec x_sum = splat(load_float(x_groups + static_cast<size_t>(r) * x_stride + 4));
          acc[r][c] = fma(w_min, x_sum, acc[r][c]);
        }
      }
    }
  }
};

/// i8 tiles: acc += x_scale * (exact integer sum) over groups of 16. The last group may have fewer rows.
struct Int8Tile {
  static constexpr int kMaxRows = kQuantTileRows;
  static constexpr int kMaxCols = kQuantTileCols;
  static constexpr int kNarrowRows = kQuantNarrowRows;
  static constexpr int64_t kStepValues = 4;

  template <int kRows, int kCols>
  static void run(const GemmArgs& a, const Tile& at) {
    const std::byte* w = a.panels + static_cast<size_t>(at.p_begin) * a.panel_bytes;
    const std::byte* x = a.x + static_cast<size_t>(at.m_begin) * a.x_stride;
    const std::byte* x_groups = x + round_up(a.k, kI8Group);
    Vec acc[kRows][kCols];
    clear(acc);
    for (int64_t k = 0; k < a.k; k += kI8Group, x += kI8Group, x_groups += 8) {
      IVec sum[kRows][kCols];
      QuantTile<false, false>::start_group(sum, x_groups, a.x_stride);
      const int64_t left = a.k - k < kI8Group ? a.k - k : kI8Group;
      for (int64_t i = 0; i < left; i += kStepValues, w += kRowBytes) {
        Row rows[kCols];
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) {
          const std::byte* row = w + static_cast<size_t>(c) * a.panel_bytes;
          rows[c] = load_row(row);
          if constexpr (kRows > 2) fetch_early(row + at.prefetch_ahead);
        }
        QuantTile<false, false>::dot_row(sum, rows, x + i, a.x_stride);
      }
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r) {
        const Vec scale = splat(load_float(x_groups + static_cast<size_t>(r) * a.x_stride));
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) acc[r][c] = fma(to_float(sum[r][c]), scale, acc[r][c]);
      }
    }
    write_tile(acc, a, at);
  }
};

using TileFunction = void (*)(const GemmArgs& a, const Tile& at);

/// by_rows[r] is the tile of r rows and kCols columns.
template <class Kind, int kMaxRows, int kCols>
struct TileTable {
  TileFunction by_rows[kMaxRows + 1] = {};
  constexpr TileTable() { fill<kMaxRows>(); }
  template <int kRows>
  constexpr void fill() {
    by_rows[kRows] = &Kind::template run<kRows, kCols>;
    if constexpr (kRows > 1) fill<kRows - 1>();
  }
};

constexpr size_t kPrefetchBytes = 4096;
constexpr size_t kPanelGroupBytes = size_t{256} << 10;  // a quarter of a large L2, half of a small one
constexpr size_t kLeastGroupedBytes = 4096;             // of a panel
constexpr int64_t kLeastGroupedTiles = 8;               // of rows

template <class Kind>
constexpr TileTable<Kind, Kind::kNarrowRows, 1> kNarrowTiles;

/// One row tile over the panels [p_begin, p_end).
template <class Kind>
POLYLORA_INLINE void gemm_row_tile(const GemmArgs& a, int64_t m_begin, int64_t rows, int64_t p_begin,
                                   int64_t p_end, bool fetches_panels) {
  static constexpr TileTable<Kind, Kind::kMaxRows, Kind::kMaxCols> kWide;
  for (int64_t p = p_begin; p < p_end;) {
    const bool wide = p_end - p >= Kind::kMaxCols;
    const int64_t step = wide ? Kind::kMaxCols : 1;
    // The first row tile fetches the next panels while it uses these.
    const size_t ahead = fetches_panels ? static_cast<size_t>(step) * a.panel_bytes : 0;
    (wide ? kWide.by_rows[rows] : kNarrowTiles<Kind>.by_rows[rows])(a, {m_begin, p, ahead});
    p += step;
  }
}

/// Few rows (decoding): one tile takes them all, and the panels go by once, as one sequential stream.
template <class Kind>
void stream_panels(const GemmArgs& a, int64_t panels) {
  const TileFunction tile = kNarrowTiles<Kind>.by_rows[a.rows];
  for (int64_t p = 0; p < panels; ++p) tile(a, {0, p, kPrefetchBytes});
}

/// A group of panels that fits L2 is read from memory once; within it rows are outside, so that a tile's x
/// stays in L1 and its results fill whole stretches of y. Short panels (LoRA's B), which have little of it,
/// and a few tiles of rows walk the panels of one tile at a time with the rows inside.
template <class Kind>
void reuse_panels(const GemmArgs& a, int64_t panels) {
  const int64_t row_tiles = (a.rows + Kind::kMaxRows - 1) / Kind::kMaxRows;
  const auto fitting =
      static_cast<int64_t>(kPanelGroupBytes / a.panel_bytes) / Kind::kMaxCols * Kind::kMaxCols;
  const bool grouped =
      row_tiles >= kLeastGroupedTiles && a.panel_bytes >= kLeastGroupedBytes && fitting > Kind::kMaxCols;
  const int64_t group = grouped ? fitting : Kind::kMaxCols;
  for (int64_t p = 0; p < panels; p += group) {
    const int64_t p_end = p + group < panels ? p + group : panels;
    for (int64_t i = 0; i < row_tiles; ++i) {
      const int64_t begin = a.rows * i / row_tiles;
      gemm_row_tile<Kind>(a, begin, a.rows * (i + 1) / row_tiles - begin, p, p_end, i == 0);
    }
  }
}

template <class Kind>
void gemm(const GemmArgs& a) {
  static_assert(Kind::kNarrowRows >= Kind::kMaxRows, "every tile of reuse_panels has a narrow form");
  const int64_t panels = (a.cols + kLanes - 1) / kLanes;
  a.rows <= Kind::kNarrowRows ? stream_panels<Kind>(a, panels) : reuse_panels<Kind>(a, panels);
}

// --- activations
// ------------------------------------------------------------------------------------------------

template <class Kind>
void narrow(std::byte* out, const float* x, int64_t k) {
  for (int64_t i = 0; i < k; i += kLanes, out += kLanes * Kind::kBytes) {
    const int64_t left = k - i;
    Kind::store_narrow(out, left >= kLanes ? load(x + i) : load_n(x + i, left));
  }
}

/// Rounds kVectors * 16 floats, of which `left` exist, to int8 with one scale; writes that, and kMin: scale *
/// Σ q, else -zero_point * Σ q, to `group`.
template <bool kMin, int kVectors>
POLYLORA_INLINE void narrow_int8_group(std::byte* out, std::byte* group, const float* x, int64_t left,
                                       int zero_point) {
  Vec values[kVectors];
  Vec magnitude = splat(0.0f);
  for (int v = 0; v < kVectors; ++v) {
    const int64_t lanes = left - v * kLanes;
    values[v] = lanes >= kLanes ? load(x + v * kLanes) : load_n(x + v * kLanes, lanes > 0 ? lanes : 0);
    magnitude = max(magnitude, abs(values[v]));
  }
  const float largest = reduce_max(magnitude);
  const bool tiny = largest < kTinyActivation;
  const float scale = tiny ? 0.0f : largest / 127.0f;
  const Vec inverse = splat(tiny ? 0.0f : 127.0f / largest);
  IVec sums = isplat(0);
  for (int v = 0; v < kVectors; ++v) {
    const IVec q = round_to_int(mul(values[v], inverse));
    store_int8(reinterpret_cast<int8_t*>(out) + v * kLanes, q);
    sums = iadd(sums, q);
  }
  const int32_t sum = reduce_add(sums);
  __builtin_memcpy(group, &scale, sizeof scale);
  if constexpr (kMin) {
    const float scaled_sum = scale * static_cast<float>(sum);
    __builtin_memcpy(group + 4, &scaled_sum, sizeof scaled_sum);
  } else {
    const int32_t offset = -zero_point * sum;
    __builtin_memcpy(group + 4, &offset, sizeof offset);
  }
}

/// int8 values of all groups, then scale and offset of each.
template <bool kMin, int kVectors>
POLYLORA_INLINE void narrow_int8_row(std::byte* out, const float* x, int64_t k, int zero_point) {
  constexpr int64_t kWidth = kVectors * kLanes;
  std::byte* group = out + round_up(k, kWidth);
  for (int64_t i = 0; i < k; i += kWidth, group += 8)
    narrow_int8_group<kMin, kVectors>(out + i, group, x + i, k - i, zero_point);
}

template <bool kMin>
void narrow_int8(std::byte* out, const float* x, int64_t k, int zero_point) {
  narrow_int8_row<kMin, kGroup / kLanes>(out, x, k, zero_point);
}

void narrow_i8(std::byte* out, const float* x, int64_t k) {
  narrow_int8_row<false, kI8Group / kLanes>(out, x, k, kI8ZeroPoint);
}

// --- pointwise
// --------------------------------------------------------------------------------------------------

POLYLORA_INLINE Vec lanes_of(const float* p, int64_t n) {
  return n >= kLanes ? load(p) : load_n(p, n);
}
POLYLORA_INLINE void put_lanes(float* p, Vec v, int64_t n) {
  n >= kLanes ? store(p, v) : store_n(p, v, n);
}

void rmsnorm(const RmsnormArgs& a) {
  Vec squares = splat(0.0f);
  for (int64_t i = 0; i < a.width; i += kLanes) {
    const int64_t left = a.width - i;
    Vec x = lanes_of(a.x + i, left);
    if (a.sum != nullptr) {
      x = add(x, lanes_of(a.delta + i, left));
      put_lanes(a.sum + i, x, left);
    }
    squares = fma(x, x, squares);
  }
  const float* row = a.sum != nullptr ? a.sum : a.x;
  const float mean = reduce_add(squares) / static_cast<float>(a.width);
  const Vec inverse = splat(1.0f / __builtin_sqrtf(mean + a.eps));
  for (int64_t i = 0; i < a.width; i += kLanes) {
    const int64_t left = a.width - i;
    put_lanes(a.y + i, mul(mul(lanes_of(row + i, left), inverse), lanes_of(a.gain + i, left)), left);
  }
}

void add_to(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    put_lanes(y + i, add(lanes_of(y + i, n - i), lanes_of(x + i, n - i)), n - i);
  }
}

void softcap(float* y, int64_t n, float cap) {
  for (int64_t i = 0; i < n; i += kLanes)
    put_lanes(y + i, mul(tanh(div(lanes_of(y + i, n - i), splat(cap))), splat(cap)), n - i);
}

void silu_mul(float* y, const float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec g = lanes_of(gate + i, n - i);
    put_lanes(y + i, mul(gated(g, g), lanes_of(up + i, n - i)), n - i);
  }
}

/// 0.5 g (1 + tanh u) = g / (1 + exp(-2u)) with u = sqrt(2/pi) (g + 0.044715 g³)
void gelu_tanh_mul(float* y, const float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec g = lanes_of(gate + i, n - i);
    const Vec cubed = mul(mul(g, g), g);
    const Vec twice_u = mul(fma(cubed, splat(0.044715f), g), splat(1.5957691216f));
    put_lanes(y + i, mul(gated(g, twice_u), lanes_of(up + i, n - i)), n - i);
  }
}

void rope(float* head, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Vec c = lanes_of(cosine + i, left);
    const Vec s = lanes_of(sine + i, left);
    const Vec low = lanes_of(head + i, left);
    const Vec high = lanes_of(head + half + i, left);
    put_lanes(head + i, sub(mul(low, c), mul(high, s)), left);
    put_lanes(head + half + i, fma(high, c, mul(low, s)), left);
  }
}

// --- training
// ---------------------------------------------------------------------------------------------------

/// The next two values of each lane, as one row of a bf16 panel or two of an f32 one.
template <class Kind>
POLYLORA_INLINE void store_two_steps(std::byte* out, Vec first, Vec second) {
  if constexpr (Kind::kStep == 2) {
    store_row(out, pack_bf16(first, second));
  } else {
    store(reinterpret_cast<float*>(out), first);
    store(reinterpret_cast<float*>(out + kRowBytes), second);
  }
}

// clang-format off: in this order
#include "ops/cpu/attention.inc.h"
#include "ops/cpu/attention_backward.inc.h"
#include "ops/cpu/kv_write.inc.h"
#include "ops/cpu/training_kernels.inc.h"
// clang-format on

constexpr Kernels kKernels = {
    .description = kIsaDescription,
    .gemm = {gemm<FloatTile<F32>>, gemm<FloatTile<Bf16>>, gemm<QuantTile<false, false>>,
             gemm<QuantTile<false, true>>, gemm<QuantTile<true, false>>, gemm<QuantTile<true, true>>,
             gemm<Int8Tile>},
    .narrow_f32 = narrow<F32>,
    .narrow_bf16 = narrow<Bf16>,
    .narrow_int8 = narrow_int8<false>,
    .narrow_int8_min = narrow_int8<true>,
    .narrow_i8 = narrow_i8,
    .bf16_bytes = kBf16Bytes,
    .kv = {{attention<FloatPages<F32>>, write_page<F32Elements>},
           {attention<FloatPages<Bf16>>, write_page<Bf16Elements>},
           {attention<Int8Pages>, write_page<Int8Elements>}},
    .pack_attention_keys_f32 = pack_attention_keys<F32>,
    .pack_attention_keys_bf16 = pack_attention_keys<Bf16>,
    .attention_backward_f32 = attention_backward<F32>,
    .attention_backward_bf16 = attention_backward<Bf16>,
    .rmsnorm = rmsnorm,
    .add = add_to,
    .softcap = softcap,
    .silu_mul = silu_mul,
    .gelu_tanh_mul = gelu_tanh_mul,
    .rope = rope,
    .training = kTrainingKernels,
};

}  // namespace
}  // namespace polylora::cpu
