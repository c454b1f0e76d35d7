// Attention over KV pages. Included by kernels.inc.h inside its namespace.
//
// A row's softmax goes through blocks of kBlockPages pages, from position 0, whatever else its tile holds:
// that is what makes it bit-identical in any batch.

#include "ops/cpu/attention_tiles.inc.h"

template <class Format>
struct ScoreTileOf {
  static constexpr int kMaxRows = kGroupRows;
  template <int kRows, int kPages>
  static void run(const ScoreArgs& a) {
    Format::template score_tile<kRows, kPages>(a);
  }
};

template <class Format>
struct ValueTileOf {
  static constexpr int kMaxRows = kGroupRows;
  template <int kRows, int kCols>
  static void run(const ValueArgs<typename Format::Probabilities>& a) {
    Format::template value_tile<kRows, kCols>(a);
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

/// One tile. Row (g * tokens + token) * heads + head is a token's head-th query head of the g-th kv head. The
/// pages that the queries share come first, for all rows; then each query's own.
template <class Format>
class Attention {
 public:
  explicit Attention(const AttentionArgs& args)
      : a_(args),
        rows_each_(args.tokens * args.heads),
        rows_((args.kv_head_end - args.kv_head_begin) * rows_each_),
        padded_dim_(round_up(args.head_dim, kLanes)),
        q_stride_(Format::query_bytes(padded_dim_)),
        scale_(args.softcap > 0.0f ? args.scale / args.softcap : args.scale / kLn2),
        cap_(args.softcap / kLn2) {
    std::byte* next = args.scratch;
    const auto take = [&](int64_t floats) {
      auto* piece = reinterpret_cast<float*>(next);
      next += static_cast<size_t>(rows_ * floats) * sizeof(float);
      return piece;
    };
    q_ = reinterpret_cast<std::byte*>(take(padded_dim_));
    sums_ = take(padded_dim_);
    totals_ = take(kLanes);
    maxima_ = take(1);
  }

  void run() {
    start_rows();
    Step step = first_of(0);
    while (step.pages() > 0) {
      const Step next = after(step);
      visit(step, next);
      step = next;
    }
    finish_rows();
  }

 private:
  /// A block of pages for one kv head and some of the queries.
  struct Step {
    int segment;  // 0: the shared pages; t + 1: those of query t alone
    int query_begin;
    int query_end;
    int page;
    int page_end;  // of the segment
    int kv_head;

    int pages() const {
      const int left = page_end - page;
      return left < 0 ? 0 : left < kBlockPages ? left : kBlockPages;
    }
  };

  /// The first step of this segment, or of the next that has any.
  Step first_of(int segment) const {
    if (segment == 0) {
      const int all = page_end(a_.tokens - 1);
      const int first = first_visible(a_.queries[0].position) / kBlockTokens * kBlockPages;
      const int end = a_.shared_pages < all ? a_.shared_pages : all;
      if (first < end) return {0, 0, a_.tokens, first, end, a_.kv_head_begin};
      segment = 1;
    }
    for (; segment <= a_.tokens; ++segment) {
      const int query = segment - 1;
      if (a_.shared_pages < page_end(query))
        return {segment, query, query + 1, a_.shared_pages, page_end(query), a_.kv_head_begin};
    }
    return {};
  }

  /// The heads of a page lie next to each other in memory, so they take turns block by block.
  Step after(Step step) const {
    if (++step.kv_head < a_.kv_head_end) return step;
    step.kv_head = a_.kv_head_begin;
    step.page += kBlockPages;
    return step.page < step.page_end ? step : first_of(step.segment + 1);
  }

  int page_end(int query) const { return a_.queries[query].position / kPageTokens + 1; }

  int first_visible(int position) const {
    return a_.window > 0 && position >= a_.window ? position - a_.window + 1 : 0;
  }

  const std::byte* page(const Step& step, int i) const {
    const int32_t page = a_.queries[step.query_begin].pages[step.page + i];
    return a_.pages_base + static_cast<size_t>(page) * a_.page_stride +
           static_cast<size_t>(step.kv_head) * a_.head_stride;
  }

  const AttentionQuery& query(int64_t row) const {
    return a_.queries[static_cast<int>(row % rows_each_) / a_.heads];
  }
  int position(int64_t row) const { return query(row).position; }
  int64_t head(int64_t row) const {
    return (a_.kv_head_begin + row / rows_each_) * a_.heads + row % a_.heads;
  }

  void start_rows() {
    for (int64_t r = 0; r < rows_; ++r) {
      const float* q = query(r).q + head(r) * a_.head_dim;
      Format::narrow_query(q_ + static_cast<size_t>(r) * q_stride_, q, a_.head_dim);
      for (int64_t d = 0; d < padded_dim_; d += kLanes) store(sums_ + r * padded_dim_ + d, splat(0.0f));
      store(totals_ + r * kLanes, splat(0.0f));
      maxima_[r] = kNoMaximum;
    }
  }

  void visit(const Step& step, const Step& next) {
    const std::byte* pages[kBlockPages];
    const std::byte* fetched[kBlockPages];
    const int count = step.pages();
    for (int i = 0; i < count; ++i) {
      pages[i] = page(step, i);
      fetched[i] = i < next.pages() ? page(next, i) : pages[i];
    }
    const int64_t begin = (step.kv_head - a_.kv_head_begin) * rows_each_ + step.query_begin * a_.heads;
    const int64_t rows = int64_t{step.query_end - step.query_begin} * a_.heads;
    const int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
    for (int64_t i = 0; i < groups; ++i) {
      visit_group(step.page, {pages, i == 0 ? fetched : pages, count}, begin + rows * i / groups,
                  begin + rows * (i + 1) / groups);
    }
  }

  /// A group of rows and those pages that any of them sees.
  void visit_group(int page, BlockPages block, int64_t begin, int64_t end) {
    const int oldest = position(begin);
    const int newest = position(end - 1);
    const int seen_from = first_visible(oldest) / kPageTokens - page;
    const int seen_to = newest / kPageTokens + 1 - page;
    const int skipped = seen_from > 0 ? seen_from : 0;
    block.count = (seen_to < block.count ? seen_to : block.count) - skipped;
    if (block.count <= 0) return;
    block.pages += skipped;
    block.next += skipped;
    const int first_key = (page + skipped) * kPageTokens;
    const bool all_visible =
        first_visible(newest) <= first_key && oldest >= first_key + block.count * kPageTokens - 1;
    const ScoreArgs scores{
        block, a_.head_dim, a_.value_offset, q_ + static_cast<size_t>(begin) * q_stride_, q_stride_, scores_};
    score(scores, end - begin);
    for (int64_t i = 0; i < end - begin; ++i) {
      raised_[i] = weigh(begin + i, scores_ + i * kBlockTokens, first_key, block.count, all_visible);
    }
    soften(scores, begin, end - begin);
    add_values(block, begin, end - begin);
  }

  void score(ScoreArgs a, int64_t rows) {
    static constexpr RowTable<void (*)(const ScoreArgs&), ScoreTileOf<Format>, kGroupPages> kWide;
    static constexpr RowTable<void (*)(const ScoreArgs&), ScoreTileOf<Format>, 1> kNarrow;
    for (int left = a.block.count; left > 0;) {
      const bool wide = left >= kGroupPages;
      const int step = wide ? kGroupPages : 1;
      (wide ? kWide.by_rows[rows] : kNarrow.by_rows[rows])(a);
      a.block.pages += step;
      a.block.next += step;
      a.scores += step * kLanes;
      left -= step;
    }
  }

  /// Scales and masks a row's scores, from here on in powers of 2; the result is the row's new maximum.
  float weigh(int64_t r, float* scores, int first_key, int pages, bool all_visible) const {
    const int begin = all_visible ? 0 : first_visible(position(r)) - first_key;
    const int end = all_visible ? kBlockTokens : position(r) + 1 - first_key;
    Vec largest = splat(maxima_[r]);
    for (int c = 0; c < pages; ++c, scores += kLanes) {
      Vec score = mul(load(scores), splat(scale_));
      if (a_.softcap > 0.0f) score = mul(tanh(score), splat(cap_));
      if (!all_visible) {
        score = keep_lanes(score, splat(-__builtin_inff()), lane(begin - c * kLanes), lane(end - c * kLanes));
      }
      store(scores, score);
      largest = max(largest, score);
    }
    return reduce_max(largest);
  }
  static int lane(int offset) { return offset < 0 ? 0 : offset < kLanes ? offset : kLanes; }

  void soften(const ScoreArgs& a, int64_t begin, int64_t rows) {
    store(factors_, exp2_of_nonpositive(sub(load_n(maxima_ + begin, rows), load(raised_))));
    for (int64_t i = 0; i < rows; ++i) {
      float* totals = totals_ + (begin + i) * kLanes;
      maxima_[begin + i] = raised_[i];
      const Vec total = mul(load(totals), splat(factors_[i]));
      store(totals, probabilities_.narrow(static_cast<int>(i), a, scores_ + i * kBlockTokens,
                                          splat(raised_[i]), total));
    }
  }

  void add_values(const BlockPages& block, int64_t begin, int64_t rows) {
    using Args = ValueArgs<typename Format::Probabilities>;
    static constexpr RowTable<void (*)(const Args&), ValueTileOf<Format>, kValueTileCols> kWide;
    static constexpr RowTable<void (*)(const Args&), ValueTileOf<Format>, 1> kNarrow;
    for (int64_t d = 0; d < padded_dim_;) {
      const bool wide = padded_dim_ - d >= kValueTileCols * kLanes;
      (wide ? kWide.by_rows[rows] : kNarrow.by_rows[rows])(
          {block, a_.value_offset + static_cast<size_t>(d) * 4, static_cast<size_t>(padded_dim_) * 4,
           probabilities_, factors_, sums_ + begin * padded_dim_ + d, padded_dim_});
      d += (wide ? kValueTileCols : 1) * kLanes;
    }
  }

  void finish_rows() {
    for (int64_t r = 0; r < rows_; ++r) {
      const float total = reduce_add(load(totals_ + r * kLanes));
      const AttentionQuery& to = query(r);
      if (to.lse != nullptr) to.lse[head(r)] = maxima_[r] * kLn2 + __builtin_logf(total);
      const Vec inverse = splat(1.0f / total);
      float* o = to.o + head(r) * a_.head_dim;
      for (int64_t d = 0; d < a_.head_dim; d += kLanes) {
        const Vec value = mul(load(sums_ + r * padded_dim_ + d), inverse);
        const int64_t left = a_.head_dim - d;
        left >= kLanes ? store(o + d, value) : store_n(o + d, value, left);
      }
    }
  }

  static constexpr float kLn2 = 0.693147181f;
  /// Below every score, and finite: a row that saw nothing yet is rescaled by 2^0 or by exactly 0.
  static constexpr float kNoMaximum = -3.4e38f;

  const AttentionArgs& a_;
  int64_t rows_each_;
  int64_t rows_;
  int64_t padded_dim_;
  size_t q_stride_;
  float scale_;
  float cap_;
  std::byte* q_;
  float* sums_;
  float* totals_;
  float* maxima_;
  // Of the group of rows at hand.
  alignas(64) float scores_[kGroupRows * kBlockTokens];
  alignas(64) float raised_[kLanes] = {};
  alignas(64) float factors_[kLanes];
  typename Format::Probabilities probabilities_;
};

template <class Format>
void attention(const AttentionArgs& args) {
  Attention<Format>(args).run();
}
