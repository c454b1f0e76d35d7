// The two products of attention for one block of KV pages, in the register tiles of each page format.
// Included by kernels.inc.h inside its namespace.
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

/// F32 or Bf16: both operands in the type of the pages.
template <class Kind>
struct FloatPages {
  static constexpr size_t query_bytes(int64_t padded_dim) { return static_cast<size_t>(padded_dim) * 4; }

  static void narrow_query(std::byte* out, const float* q, int64_t head_dim) {
    narrow<Kind>(out, q, head_dim);
  }

  template <int kRows, int kPages>
  static void score_tile(const ScoreArgs& a) {
    constexpr size_t kStepBytes = size_t{Kind::kStep} * Kind::kBytes;
    Vec acc[kRows][kPages];
    clear(acc);
    const std::byte* q = a.q;
    const size_t end = static_cast<size_t>(a.head_dim / Kind::kStep) * kRowBytes;
    for (size_t at = 0; at < end; at += kRowBytes, q += kStepBytes) {
      Row keys[kPages];
#pragma GCC unroll 4
      for (int c = 0; c < kPages; ++c) {
        keys[c] = load_row(a.block.pages[c] + at);
        __builtin_prefetch(a.block.next[c] + at, 0, 2);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto step = Kind::splat_step(q + static_cast<size_t>(r) * a.q_stride);
#pragma GCC unroll 4
        for (int c = 0; c < kPages; ++c) acc[r][c] = Kind::dot(acc[r][c], keys[c], step);
      }
    }
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
        total = add(total, Kind::store_narrow(out, exp(sub(load(scores), maximum))));
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
    const std::byte* p = a.p.rows();
    for (int i = 0; i < a.block.count; ++i) {
      const std::byte* row = a.block.pages[i] + a.values;
      const std::byte* next = a.block.next[i] + a.values;
      for (int s = 0; s < kPageTokens / Kind::kStep; ++s, row += a.step_stride, next += a.step_stride) {
        Row values[kCols];
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) {
          values[c] = load_row(row + c * kRowBytes);
          __builtin_prefetch(next + c * kRowBytes, 0, 2);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const auto step = Kind::splat_step(p + static_cast<size_t>(r) * Probabilities::kStride);
#pragma GCC unroll 4
          for (int c = 0; c < kCols; ++c) acc[r][c] = Kind::dot(acc[r][c], values[c], step);
        }
        p += Kind::kStep * Kind::kBytes;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) store(a.sums + r * a.sums_stride + c * kLanes, acc[r][c]);
    }
  }
};
