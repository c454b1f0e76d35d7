// Attention over KV pages. Included by kernels.inc.h inside its namespace.

using ScoreFunction = void (*)(const Grid& keys, int64_t steps, const std::byte* q, size_t q_stride,
                               float* scores);

/// scores[r][16 tokens] = q[r] · keys
template <class Kind>
struct ScoreTile {
  static constexpr int kMaxRows = kFloatTileRows;
  template <int kRows, int>
  static void run(const Grid& keys, int64_t steps, const std::byte* q, size_t q_stride, float* scores) {
    Vec acc[kRows][1];
    clear(acc);
    accumulate<Kind>(acc, keys, steps, q, q_stride);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) store(scores + r * kLanes, acc[r][0]);
  }
};

using ValueFunction = void (*)(const Grid& values, const std::byte* p, size_t p_stride, float* sums,
                               int64_t sums_stride);

/// sums[r] += p[r][16 tokens] · values
template <class Kind>
struct ValueTile {
  static constexpr int kMaxRows = kValueTileRows;
  template <int kRows, int kCols>
  static void run(const Grid& values, const std::byte* p, size_t p_stride, float* sums, int64_t sums_stride) {
    Vec acc[kRows][kCols];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) acc[r][c] = load(sums + r * sums_stride + c * kLanes);
    }
    accumulate<Kind>(acc, values, kPageTokens / Kind::kStep, p, p_stride);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) store(sums + r * sums_stride + c * kLanes, acc[r][c]);
    }
  }
};

template <class Function, class TileKind, int kCols>
struct RowTable {
  Function by_rows[TileKind::kMaxRows + 1] = {};
  constexpr RowTable() { fill<TileKind::kMaxRows>(); }
  template <int kRows>
  constexpr void fill() {
    by_rows[kRows] = &TileKind::template run<kRows, kCols>;
    if constexpr (kRows > 1) fill<kRows - 1>();
  }
};

/// One query tile walking the pages of one kv head. Row r is token r / heads, head r % heads.
template <class Kind>
class Attention {
 public:
  explicit Attention(const AttentionArgs& args)
      : a_(args),
        rows_(args.heads * args.tokens),
        padded_dim_(round_up(args.head_dim, kLanes)),
        q_stride_(static_cast<size_t>(padded_dim_) * Kind::kBytes) {
    std::byte* next = args.scratch;
    const auto take = [&](int64_t floats) {
      auto* piece = reinterpret_cast<float*>(next);
      next += static_cast<size_t>(rows_ * floats) * sizeof(float);
      return piece;
    };
    q_ = reinterpret_cast<std::byte*>(take(padded_dim_));
    sums_ = take(padded_dim_);
    scores_ = take(kLanes);
    probabilities_ = reinterpret_cast<std::byte*>(take(kLanes));
    totals_ = take(kLanes);
    maxima_ = take(1);
  }

  void run() {
    start_rows();
    const int last_position = a_.first_position + a_.tokens - 1;
    const int last_block = last_position / kPageTokens;
    for (int block = first_visible(a_.first_position) / kPageTokens; block <= last_block; ++block) {
      if (block < last_block) prefetch_page(block + 1);
      visit(block);
    }
    finish_rows();
  }

 private:
  static constexpr size_t kPStride = size_t{kLanes} * Kind::kBytes;

  int first_visible(int position) const {
    return a_.window > 0 && position >= a_.window ? position - a_.window + 1 : 0;
  }
  const std::byte* page(int block) const {
    return a_.pages_base + static_cast<size_t>(a_.pages[block]) * a_.page_stride;
  }

  void prefetch_page(int block) const {
    const std::byte* next = page(block);
    for (size_t i = 0; i < 2 * a_.value_offset; i += 64) __builtin_prefetch(next + i);
  }

  void start_rows() {
    for (int64_t r = 0; r < rows_; ++r) {
      narrow<Kind>(q_ + static_cast<size_t>(r) * q_stride_, query(r), a_.head_dim);
      for (int64_t d = 0; d < padded_dim_; d += kLanes) store(sums_ + r * padded_dim_ + d, splat(0.0f));
      store(totals_ + r * kLanes, splat(0.0f));
      maxima_[r] = -__builtin_inff();
    }
  }

  const float* query(int64_t r) const {
    return a_.q + r / a_.heads * a_.q_stride + r % a_.heads * a_.head_dim;
  }

  /// The rows that see any key of the block, and only they: a row's arithmetic must not depend on its tile.
  void visit(int block) {
    const int first_key = block * kPageTokens;
    int begin = first_key - a_.first_position;  // tokens at or after the block's first key
    int end = a_.tokens;
    if (a_.window > 0) {  // ... whose window has not left the block's last key behind
      const int past = first_key + kPageTokens - 1 + a_.window - a_.first_position;
      end = past < end ? past : end;
    }
    begin = begin > 0 ? begin : 0;
    if (begin >= end) return;
    const std::byte* keys = page(block);
    score_rows(keys, begin * a_.heads, end * a_.heads);
    for (int token = begin; token < end; ++token) raise_maxima(token, first_key);
    exponentiate(begin * a_.heads, end * a_.heads);
    add_values(keys + a_.value_offset, begin * a_.heads, end * a_.heads);
  }

  void score_rows(const std::byte* keys, int begin, int end) {
    static constexpr RowTable<ScoreFunction, ScoreTile<Kind>, 1> kTiles;
    const Grid grid{keys, 0, kRowBytes, 0};
    for (int r = begin; r < end;) {
      const int rows = end - r < kFloatTileRows ? end - r : kFloatTileRows;
      kTiles.by_rows[rows](grid, a_.head_dim / Kind::kStep, q_ + static_cast<size_t>(r) * q_stride_,
                           q_stride_, scores_ + r * kLanes);
      r += rows;
    }
  }

  /// Scales and masks a token's scores and brings its rows' maxima up to them. Apart from exponentiate(), so
  /// that a mispredicted branch here does not hold up what is there.
  void raise_maxima(int token, int first_key) {
    const int position = a_.first_position + token;
    const int oldest = first_visible(position) - first_key;
    const int newest = position - first_key;
    const int begin = oldest > 0 ? oldest : 0;
    const int end = newest < kLanes ? newest + 1 : kLanes;
    for (int64_t r = int64_t{token} * a_.heads; r < int64_t{token + 1} * a_.heads; ++r) {
      Vec score = mul(load(scores_ + r * kLanes), splat(a_.scale));
      if (a_.softcap > 0.0f) score = mul(tanh(div(score, splat(a_.softcap))), splat(a_.softcap));
      if (begin > 0 || end < kLanes) score = keep_lanes(score, splat(-__builtin_inff()), begin, end);
      store(scores_ + r * kLanes, score);
      if (any_greater(score, splat(maxima_[r]))) raise_maximum(r, reduce_max(score));
    }
  }

  void raise_maximum(int64_t r, float maximum) {
    if (maxima_[r] > -__builtin_inff()) rescale(r, exp(splat(maxima_[r] - maximum)));
    maxima_[r] = maximum;
  }

  void exponentiate(int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Vec p = exp(sub(load(scores_ + r * kLanes), splat(maxima_[r])));
      const Vec stored = Kind::store_narrow(probabilities_ + static_cast<size_t>(r) * kPStride, p);
      store(totals_ + r * kLanes, add(load(totals_ + r * kLanes), stored));
    }
  }

  void rescale(int64_t r, Vec factor) {
    float* sums = sums_ + r * padded_dim_;
    for (int64_t d = 0; d < padded_dim_; d += kLanes) store(sums + d, mul(load(sums + d), factor));
    store(totals_ + r * kLanes, mul(load(totals_ + r * kLanes), factor));
  }

  void add_values(const std::byte* values, int begin, int end) {
    static constexpr RowTable<ValueFunction, ValueTile<Kind>, kValueTileCols> kWide;
    static constexpr RowTable<ValueFunction, ValueTile<Kind>, 1> kNarrow;
    const size_t step_stride = static_cast<size_t>(padded_dim_) * 4;
    for (int r = begin; r < end;) {
      const int rows = end - r < kValueTileRows ? end - r : kValueTileRows;
      const std::byte* p = probabilities_ + static_cast<size_t>(r) * kPStride;
      for (int64_t d = 0; d < padded_dim_;) {
        const bool wide = padded_dim_ - d >= kValueTileCols * kLanes;
        const Grid grid{values + d * 4, kRowBytes, step_stride, 0};
        (wide ? kWide.by_rows[rows] : kNarrow.by_rows[rows])(grid, p, kPStride, sums_ + r * padded_dim_ + d,
                                                             padded_dim_);
        d += (wide ? kValueTileCols : 1) * kLanes;
      }
      r += rows;
    }
  }

  void finish_rows() {
    for (int64_t r = 0; r < rows_; ++r) {
      const float total = reduce_add(load(totals_ + r * kLanes));
      if (a_.lse != nullptr)
        a_.lse[r / a_.heads * a_.lse_stride + r % a_.heads] = maxima_[r] + __builtin_logf(total);
      const Vec inverse = splat(1.0f / total);
      float* o = a_.o + r / a_.heads * a_.o_stride + r % a_.heads * a_.head_dim;
      for (int64_t d = 0; d < a_.head_dim; d += kLanes) {
        const Vec value = mul(load(sums_ + r * padded_dim_ + d), inverse);
        const int64_t left = a_.head_dim - d;
        left >= kLanes ? store(o + d, value) : store_n(o + d, value, left);
      }
    }
  }

  const AttentionArgs& a_;
  int64_t rows_;
  int64_t padded_dim_;
  size_t q_stride_;
  std::byte* q_;
  float* sums_;
  float* scores_;
  std::byte* probabilities_;
  float* totals_;
  float* maxima_;
};

template <class Kind>
void attention(const AttentionArgs& args) {
  Attention<Kind>(args).run();
}
