// Attention's backward, as FlashAttention-2 has it (Dao 2023): scores are computed again block by block, and
// P = exp(score - lse) needs no maximum. Part of kernels.inc.h, inside its namespace.
//
// With S = scale·Q·Kᵀ, delta = rowsum(dO∘O):  P = exp(S - lse),  dP = dO·Vᵀ,  dS = scale·P∘(dP - delta),
//   dV = Pᵀ·dO,  dK = dSᵀ·Q,  dQ = dS·K
// Everything score-shaped is kept transposed, [key][query]: the lanes of a vector are queries, so that lse
// and delta are vectors, and the rows of Pᵀ and dSᵀ are what the sums over queries broadcast. dQ is summed as
// dQᵀ for the same reason.

/// out[rows, 16 * panels] = (or += unless `fresh`) x · panelsᵀ over `steps` steps of the panels.
struct Product {
  const std::byte* panels;
  size_t panel_bytes;
  int64_t panel_count;
  int64_t steps;
  const std::byte* x;
  size_t x_stride;  // bytes
  int64_t rows;
  float* out;
  int64_t out_stride;
  bool fresh;
};

using ProductFunction = void (*)(const Product& a, int64_t row, int64_t panel);

template <class Kind>
struct ProductTile {
  static constexpr int kMaxRows = kFloatTileRows;
  template <int kRows, int kCols>
  static void run(const Product& a, int64_t row, int64_t panel) {
    float* out = a.out + row * a.out_stride + panel * kLanes;
    Vec acc[kRows][kCols];
    if (a.fresh) {
      clear(acc);
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < kCols; ++c) acc[r][c] = load(out + r * a.out_stride + c * kLanes);
      }
    }
    const Grid grid{a.panels + static_cast<size_t>(panel) * a.panel_bytes, a.panel_bytes, kRowBytes, 0};
    accumulate<Kind>(acc, grid, a.steps, a.x + static_cast<size_t>(row) * a.x_stride, a.x_stride);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCols; ++c) store(out + r * a.out_stride + c * kLanes, acc[r][c]);
    }
  }
};

template <class Kind>
void multiply(const Product& a) {
  static constexpr RowTable<ProductFunction, ProductTile<Kind>, kFloatTileCols> kWide;
  static constexpr RowTable<ProductFunction, ProductTile<Kind>, 1> kNarrow;
  const int64_t row_tiles = (a.rows + kFloatTileRows - 1) / kFloatTileRows;
  for (int64_t p = 0; p < a.panel_count;) {
    const bool wide = a.panel_count - p >= kFloatTileCols;
    for (int64_t i = 0; i < row_tiles; ++i) {
      const int64_t begin = a.rows * i / row_tiles;
      const int64_t rows = a.rows * (i + 1) / row_tiles - begin;
      (wide ? kWide.by_rows[rows] : kNarrow.by_rows[rows])(a, begin, p);
    }
    p += wide ? kFloatTileCols : 1;
  }
}

template <class Kind>
constexpr size_t panel_bytes(int64_t contraction) {
  return static_cast<size_t>(contraction / Kind::kStep) * kRowBytes;
}

/// Rows of floats of which only [0, rows) × [0, cols) exist; what lies beyond reads as zero.
struct Window {
  const float* base;
  int64_t stride;
  int64_t rows;
  int64_t cols;

  POLYLORA_INLINE Vec lanes(int64_t row, int64_t col) const {
    if (row >= rows || col >= cols) return splat(0.0f);
    const float* p = base + row * stride + col;
    return cols - col >= kLanes ? load(p) : load_n(p, cols - col);
  }
  /// v[c] = column col + c of rows [row, row + 16).
  POLYLORA_INLINE void columns(Vec (&v)[kLanes], int64_t row, int64_t col) const {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) v[r] = lanes(row + r, col);
    transpose(v);
  }
};

/// Panels whose lanes are rows of `in` and whose contraction runs over its columns.
template <class Kind>
void pack_row_panels(std::byte* out, const Window& in, int64_t padded_rows, int64_t padded_cols) {
  for (int64_t row = 0; row < padded_rows; row += kLanes) {
    for (int64_t col = 0; col < padded_cols; col += kLanes, out += panel_bytes<Kind>(kLanes)) {
      Vec v[kLanes];
      in.columns(v, row, col);
#pragma GCC unroll 16
      for (int c = 0; c < kLanes; c += 2) store_two_steps<Kind>(out + panel_bytes<Kind>(c), v[c], v[c + 1]);
    }
  }
}

/// Panels whose lanes are columns of `in` and whose contraction runs over its rows; a panel has room for
/// kAttentionBlock rows.
template <class Kind>
void pack_column_panels(std::byte* out, const Window& in, int64_t padded_rows, int64_t padded_cols) {
  for (int64_t col = 0; col < padded_cols; col += kLanes, out += panel_bytes<Kind>(kAttentionBlock)) {
    for (int64_t row = 0; row < padded_rows; row += 2)
      store_two_steps<Kind>(out + panel_bytes<Kind>(row), in.lanes(row, col), in.lanes(row + 1, col));
  }
}

template <class Kind>
void narrow_window(std::byte* out, const Window& in, int64_t padded_cols) {
  for (int64_t row = 0; row < kAttentionBlock; ++row) {
    for (int64_t col = 0; col < padded_cols; col += kLanes, out += kLanes * Kind::kBytes)
      Kind::store_narrow(out, in.lanes(row, col));
  }
}

template <class Kind>
void narrow_transposed(std::byte* out, const Window& in, int64_t padded_cols) {
  constexpr int64_t kRowStride = kAttentionBlock * Kind::kBytes;
  for (int64_t row = 0; row < kAttentionBlock; row += kLanes) {
    for (int64_t col = 0; col < padded_cols; col += kLanes) {
      Vec v[kLanes];
      in.columns(v, row, col);
#pragma GCC unroll 16
      for (int c = 0; c < kLanes; ++c)
        Kind::store_narrow(out + (col + c) * kRowStride + row * Kind::kBytes, v[c]);
    }
  }
}

template <class Kind>
void pack_attention_keys(const AttentionKeysArgs& a) {
  const int64_t padded_dim = round_up(a.head_dim, kLanes);
  const int64_t form_bytes = kAttentionBlock * padded_dim * Kind::kBytes;
  const Window k{a.k, a.k_stride, a.tokens, a.head_dim};
  const Window v{a.v, a.v_stride, a.tokens, a.head_dim};
  narrow_window<Kind>(a.out, k, padded_dim);
  narrow_transposed<Kind>(a.out + form_bytes, k, padded_dim);
  narrow_window<Kind>(a.out + 2 * form_bytes, v, padded_dim);
}

/// A run of queries walking the key blocks that they see.
template <class Kind>
class AttentionBackward {
 public:
  explicit AttentionBackward(const AttentionBackwardArgs& args)
      : a_(args),
        padded_dim_(round_up(args.head_dim, kLanes)),
        form_bytes_(static_cast<size_t>(kBlock * padded_dim_) * Kind::kBytes) {
    float* next = reinterpret_cast<float*>(args.scratch);
    const auto take = [&](int64_t floats) {
      float* piece = next;
      next += floats;
      return piece;
    };
    const auto bytes = [&](int64_t values) { return reinterpret_cast<std::byte*>(take(values)); };
    q_rows_ = bytes(kBlock * padded_dim_);
    q_columns_ = bytes(kBlock * padded_dim_);
    d_o_rows_ = bytes(kBlock * padded_dim_);
    d_o_columns_ = bytes(kBlock * padded_dim_);
    dq_ = take(kBlock * padded_dim_);
    scores_ = take(kBlock * kBlock);
    dp_ = take(kBlock * kBlock);
    p_ = bytes(kBlock * kBlock);
    ds_ = bytes(kBlock * kBlock);
    ds_panels_ = bytes(kBlock * kBlock);
    lse_ = take(kBlock);
    delta_ = take(kBlock);
  }

  void run() {
    for (int head = 0; head < a_.heads; ++head) {
      for (int query = a_.query_begin; query < a_.query_end; query += kBlock) {
        load_queries(head, query);
        const int first = first_visible(query) / kBlock * kBlock;
        for (int key = first; key <= query; key += kBlock) {
          const int first_query = key > a_.query_begin ? key : a_.query_begin;
          visit(key, key == first, head == 0 && query == first_query);
        }
        store_dq(head);
      }
    }
  }

 private:
  static constexpr int kBlock = kAttentionBlock;
  static constexpr int kWide = kFloatTileCols * kLanes;  // queries of one softmax
  static constexpr size_t kScoreBytes = size_t{kBlock} * Kind::kBytes;

  int first_visible(int position) const {
    return a_.window > 0 && position >= a_.window ? position - a_.window + 1 : 0;
  }

  void load_queries(int head, int query) {
    query_ = query;
    queries_ = a_.query_end - query < kBlock ? a_.query_end - query : kBlock;
    padded_queries_ = static_cast<int>(round_up(queries_, kLanes));
    const int64_t column = int64_t{head} * a_.head_dim;
    const Window q{a_.q + query * a_.q_stride + column, a_.q_stride, queries_, a_.head_dim};
    const Window d_o{a_.d_o + query * a_.d_o_stride + column, a_.d_o_stride, queries_, a_.head_dim};
    const Window o{a_.o + query * a_.o_stride + column, a_.o_stride, queries_, a_.head_dim};
    pack_row_panels<Kind>(q_rows_, q, padded_queries_, padded_dim_);
    pack_column_panels<Kind>(q_columns_, q, padded_queries_, padded_dim_);
    pack_row_panels<Kind>(d_o_rows_, d_o, padded_queries_, padded_dim_);
    pack_column_panels<Kind>(d_o_columns_, d_o, padded_queries_, padded_dim_);
    for (int i = 0; i < padded_queries_; ++i) {
      Vec products = splat(0.0f);
      for (int64_t d = 0; d < a_.head_dim; d += kLanes)
        products = fma(d_o.lanes(i, d), o.lanes(i, d), products);
      delta_[i] = reduce_add(products);
      lse_[i] = i < queries_ ? a_.lse[(query + i) * a_.lse_stride + head] : 0.0f;
    }
  }

  /// `first_key_block` of these queries: dq begins here. `first_query_block` of these keys: dk and dv do.
  void visit(int key, bool first_key_block, bool first_query_block) {
    const std::byte* block = a_.keys + static_cast<size_t>(key / kBlock) * a_.block_bytes;
    const int ahead = query_ - key;  // of the first query's position to the first key's
    const int queries_each = ahead == 0 ? kLanes : kWide;
    for (int begin = 0; begin < padded_queries_; begin += queries_each) {
      const int end = begin + queries_each < padded_queries_ ? begin + queries_each : padded_queries_;
      visit_queries(block, ahead, begin, end, first_key_block);
    }
    // On the diagonal, 16 keys at a time skip the queries before them.
    const int keys_each = ahead == 0 ? kLanes : kBlock;
    for (int row = 0; row < kBlock; row += keys_each) {
      const int64_t at = key - a_.key_begin + row;
      const int skipped = ahead == 0 ? row : 0;
      sum_over_queries(p_, d_o_columns_, row, keys_each, skipped, a_.dv + at * padded_dim_,
                       first_query_block);
      sum_over_queries(ds_, q_columns_, row, keys_each, skipped, a_.dk + at * padded_dim_, first_query_block);
    }
  }

  /// Queries [begin, end) of the block: P, dS, and their share of dQ.
  void visit_queries(const std::byte* block, int ahead, int begin, int end, bool fresh) {
    // The keys that any of them sees, in whole vectors: [low, high).
    const int newest = ahead + end;
    const int oldest = a_.window > 0 ? ahead + begin - a_.window + 1 : 0;
    const int high = newest < kBlock ? newest : kBlock;
    int low = oldest > 0 ? oldest / kLanes * kLanes : 0;
    low = low < high ? low : high;
    const auto panels = static_cast<size_t>(begin / kLanes) * panel_bytes<Kind>(padded_dim_);
    const size_t rows_at = static_cast<size_t>(low * padded_dim_) * Kind::kBytes;
    Product scores{.panels = q_rows_ + panels,
                   .panel_bytes = panel_bytes<Kind>(padded_dim_),
                   .panel_count = (end - begin) / kLanes,
                   .steps = padded_dim_ / Kind::kStep,
                   .x = block + rows_at,
                   .x_stride = static_cast<size_t>(padded_dim_) * Kind::kBytes,
                   .rows = high - low,
                   .out = scores_ + low * kBlock + begin,
                   .out_stride = kBlock,
                   .fresh = true};
    multiply<Kind>(scores);
    scores.panels = d_o_rows_ + panels;
    scores.x += 2 * form_bytes_;
    scores.out = dp_ + low * kBlock + begin;
    multiply<Kind>(scores);

    for (int lane = begin; lane < end; lane += kLanes) {
      clear_scores(0, low, lane);
      if (a_.softcap > 0.0f) {
        softmax<true>(low, high, lane, ahead);
      } else {
        softmax<false>(low, high, lane, ahead);
      }
      clear_scores(high, kBlock, lane);
    }
    multiply<Kind>({.panels = ds_panel(begin) + panel_bytes<Kind>(low),
                    .panel_bytes = panel_bytes<Kind>(kBlock),
                    .panel_count = (end - begin) / kLanes,
                    .steps = (high - low) / Kind::kStep,
                    .x = block + form_bytes_ + low * Kind::kBytes,
                    .x_stride = kScoreBytes,
                    .rows = padded_dim_,
                    .out = dq_ + begin,
                    .out_stride = kBlock,
                    .fresh = fresh});
  }

  std::byte* ds_panel(int query) const {
    return ds_panels_ + static_cast<size_t>(query / kLanes) * panel_bytes<Kind>(kBlock);
  }

  void clear_scores(int begin, int end, int lane) {
    for (int key = begin; key < end; ++key) {
      Kind::store_narrow(narrowed(p_, key, lane), splat(0.0f));
      Kind::store_narrow(narrowed(ds_, key, lane), splat(0.0f));
    }
  }

  static std::byte* narrowed(std::byte* base, int key, int lane) {
    return base + static_cast<size_t>(key) * kScoreBytes + lane * Kind::kBytes;
  }

  /// P and dS of 16 queries and keys [low, high).
  template <bool kCapped>
  void softmax(int low, int high, int lane, int ahead) {
    const Vec lse = load(lse_ + lane);
    const Vec delta = load(delta_ + lane);
    std::byte* panel = ds_panel(lane);
    for (int key = low; key < high; key += 2) {
      Vec ds[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        Vec score = mul(load(scores_ + (key + i) * kBlock + lane), splat(a_.scale));
        Vec slope = splat(a_.scale);
        if constexpr (kCapped) {
          const Vec t = tanh(div(score, splat(a_.softcap)));
          score = mul(t, splat(a_.softcap));
          slope = mul(slope, sub(splat(1.0f), mul(t, t)));
        }
        const Vec p = visible_only(exp(sub(score, lse)), key + i, lane, ahead);
        ds[i] = mul(mul(p, sub(load(dp_ + (key + i) * kBlock + lane), delta)), slope);
        Kind::store_narrow(narrowed(p_, key + i, lane), p);
        Kind::store_narrow(narrowed(ds_, key + i, lane), ds[i]);
      }
      store_two_steps<Kind>(panel + panel_bytes<Kind>(key), ds[0], ds[1]);
    }
  }

  POLYLORA_INLINE Vec visible_only(Vec p, int key, int lane, int ahead) const {
    int begin = key - ahead - lane;  // the first lane at or after the key
    int end = queries_ - lane;
    if (a_.window > 0 && begin + a_.window < end) end = begin + a_.window;
    if (begin <= 0 && end >= kLanes) return p;
    begin = begin < 0 ? 0 : begin < kLanes ? begin : kLanes;
    end = end < 0 ? 0 : end < kLanes ? end : kLanes;
    return keep_lanes(p, splat(0.0f), begin, end);
  }

  /// sums[keys, E] (+)= weights[keys, queries] · columns, from query `skipped` on.
  void sum_over_queries(const std::byte* weights, const std::byte* columns, int row, int keys, int skipped,
                        float* sums, bool fresh) {
    const int queries = padded_queries_ > skipped ? padded_queries_ - skipped : 0;
    multiply<Kind>({.panels = columns + panel_bytes<Kind>(skipped),
                    .panel_bytes = panel_bytes<Kind>(kBlock),
                    .panel_count = padded_dim_ / kLanes,
                    .steps = queries / Kind::kStep,
                    .x = weights + static_cast<size_t>(row) * kScoreBytes + skipped * Kind::kBytes,
                    .x_stride = kScoreBytes,
                    .rows = keys,
                    .out = sums,
                    .out_stride = padded_dim_,
                    .fresh = fresh});
  }

  void store_dq(int head) {
    float* out = a_.dq + query_ * a_.dq_stride + int64_t{head} * a_.head_dim;
    for (int lane = 0; lane < queries_; lane += kLanes) {
      const int rows = queries_ - lane < kLanes ? queries_ - lane : kLanes;
      for (int64_t d = 0; d < a_.head_dim; d += kLanes) {
        Vec v[kLanes];
#pragma GCC unroll 16
        for (int c = 0; c < kLanes; ++c) v[c] = load(dq_ + (d + c) * kBlock + lane);
        transpose(v);
        const int64_t left = a_.head_dim - d;
        for (int r = 0; r < rows; ++r) {
          float* row = out + (lane + r) * a_.dq_stride + d;
          left >= kLanes ? store(row, v[r]) : store_n(row, v[r], left);
        }
      }
    }
  }

  const AttentionBackwardArgs& a_;
  int64_t padded_dim_;
  size_t form_bytes_;  // of one of the three forms of a key block
  int query_ = 0;      // the block at hand: its first query, how many there are
  int queries_ = 0;
  int padded_queries_ = 0;
  std::byte* q_rows_;       // panels: lanes are queries, contraction over E
  std::byte* q_columns_;    // panels: lanes are E, contraction over queries
  std::byte* d_o_rows_;     // as q_rows_
  std::byte* d_o_columns_;  // as q_columns_
  float* dq_;               // [E padded][queries]
  float* scores_;           // [keys][queries]
  float* dp_;               // [keys][queries]
  std::byte* p_;            // [keys][queries], narrowed
  std::byte* ds_;           // [keys][queries], narrowed
  std::byte* ds_panels_;    // panels: lanes are queries, contraction over keys
  float* lse_;              // [queries]
  float* delta_;            // [queries]
};

template <class Kind>
void attention_backward(const AttentionBackwardArgs& args) {
  AttentionBackward<Kind>(args).run();
}
