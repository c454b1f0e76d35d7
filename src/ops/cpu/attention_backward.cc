#include "ops/cpu/attention_backward.h"

#include <algorithm>
#include <numeric>

namespace polylora::cpu {
namespace {

constexpr int kBlock = kAttentionBlock;

/// A sequence is cut into runs of at least kLeastQueries, and into no more than kMostRuns: each sums its own
/// dk and dv over all keys before it.
constexpr int kLeastQueries = 128;
constexpr int kMostRuns = 8;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t padded(int head_dim) {
  return round_up(head_dim, kLanes);
}

/// q and d_o as panels in two forms each, dq; scores, their gradients, P, dS in two forms; lse and delta.
size_t scratch_bytes(int head_dim) {
  return static_cast<size_t>(kBlock * (5 * padded(head_dim) + 5 * kBlock + 2)) * sizeof(float);
}

}  // namespace

void AttentionBackwardDriver::run(const AttentionGradient& g, std::span<const SequenceSpan> spans) {
  plan(spans, static_cast<int>(g.k.cols / g.head_dim), g.params.window);
  keys_.at_least(block_bytes(g) * blocks_.size());
  sums_.at_least(static_cast<size_t>(sum_rows_ * padded(g.head_dim)) * sizeof(float));
  const size_t member_bytes = scratch_bytes(g.head_dim);
  std::byte* scratch = scratch_.at_least(member_bytes * static_cast<size_t>(pool_.size()));
  pack_queue_.reset(static_cast<int64_t>(blocks_.size()));
  walk_queue_.reset(static_cast<int64_t>(runs_.size()));
  add_queue_.reset(static_cast<int64_t>(blocks_.size()));
  pool_.run([&](int member) {
    pack_queue_.drain([&](int64_t i) { pack(g, blocks_[static_cast<size_t>(i)]); });
    pool_.barrier();
    walk_queue_.drain([&](int64_t i) {
      walk(g, runs_[order_[static_cast<size_t>(i)]], scratch + member_bytes * static_cast<size_t>(member));
    });
    pool_.barrier();
    add_queue_.drain([&](int64_t i) { add_runs(g, blocks_[static_cast<size_t>(i)]); });
  });
}

void AttentionBackwardDriver::plan(std::span<const SequenceSpan> spans, int kv_heads, int window) {
  heads_.clear();
  blocks_.clear();
  runs_.clear();
  sum_rows_ = 0;
  for (const SequenceSpan& span : spans) {
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      heads_.push_back({&span, kv_head, static_cast<int64_t>(blocks_.size()), runs_.size(), 0});
      for (int block = 0; block * kBlock < span.row_count; ++block)
        blocks_.push_back({heads_.size() - 1, block});
      plan_runs(heads_.size() - 1, window);
    }
  }
  order_.resize(runs_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [this](size_t a, size_t b) { return runs_[a].cost > runs_[b].cost; });
}

void AttentionBackwardDriver::plan_runs(size_t head, int window) {
  const int tokens = heads_[head].span->row_count;
  const int wanted = std::clamp(tokens / kLeastQueries, 1, kMostRuns);
  const int each = static_cast<int>(round_up((tokens + wanted - 1) / wanted, kBlock));
  for (int begin = 0; begin < tokens; begin += each) {
    const int end = std::min(begin + each, tokens);
    const int first_key = window > 0 ? std::max(0, begin - window + 1) / kBlock * kBlock : 0;
    const auto key_end = static_cast<int>(round_up(end, kBlock));
    const int visible = window > 0 ? std::min(window, (begin + end) / 2) : (begin + end) / 2;
    runs_.push_back(
        {head, begin, end, first_key, key_end, sum_rows_, int64_t{end - begin} * (visible + kBlock)});
    sum_rows_ += 2 * (key_end - first_key);
  }
  heads_[head].run_count = runs_.size() - heads_[head].first_run;
}

size_t AttentionBackwardDriver::block_bytes(const AttentionGradient& g) const {
  const size_t value_bytes = g.dtype == DType::kBf16 ? kernels_.bf16_bytes : sizeof(float);
  return static_cast<size_t>(3 * kBlock * padded(g.head_dim)) * value_bytes;
}

void AttentionBackwardDriver::pack(const AttentionGradient& g, const Block& block) const {
  const Head& head = heads_[block.head];
  const int first = block.block * kBlock;
  const int64_t row = head.span->row_begin + first;
  const int64_t column = int64_t{head.kv_head} * g.head_dim;
  const auto kernel =
      g.dtype == DType::kBf16 ? kernels_.pack_attention_keys_bf16 : kernels_.pack_attention_keys_f32;
  kernel({
      .k = g.k.row(row) + column,
      .k_stride = g.k.stride,
      .v = g.v.row(row) + column,
      .v_stride = g.v.stride,
      .head_dim = g.head_dim,
      .tokens = std::min(kBlock, head.span->row_count - first),
      .out = keys_.data() + static_cast<size_t>(head.first_block + block.block) * block_bytes(g),
  });
}

void AttentionBackwardDriver::walk(const AttentionGradient& g, const Run& run, std::byte* scratch) const {
  const Head& head = heads_[run.head];
  const int64_t heads_per_kv = g.q.cols / g.k.cols;
  const int64_t row = head.span->row_begin;
  const int64_t first_head = head.kv_head * heads_per_kv;
  const int64_t column = first_head * g.head_dim;
  float* dk = reinterpret_cast<float*>(sums_.data()) + run.sums * padded(g.head_dim);
  const auto kernel =
      g.dtype == DType::kBf16 ? kernels_.attention_backward_bf16 : kernels_.attention_backward_f32;
  kernel({
      .keys = keys_.data() + static_cast<size_t>(head.first_block) * block_bytes(g),
      .block_bytes = block_bytes(g),
      .head_dim = g.head_dim,
      .heads = static_cast<int>(heads_per_kv),
      .query_begin = run.query_begin,
      .query_end = run.query_end,
      .key_begin = run.key_begin,
      .q = g.q.row(row) + column,
      .q_stride = g.q.stride,
      .o = g.o.row(row) + column,
      .o_stride = g.o.stride,
      .d_o = g.d_o.row(row) + column,
      .d_o_stride = g.d_o.stride,
      .lse = g.lse.row(row) + first_head,
      .lse_stride = g.lse.stride,
      .dq = g.dq.row(row) + column,
      .dq_stride = g.dq.stride,
      .dk = dk,
      .dv = dk + (run.key_end - run.key_begin) * padded(g.head_dim),
      .scale = g.params.scale,
      .softcap = g.params.softcap,
      .window = g.params.window,
      .scratch = scratch,
  });
}

void AttentionBackwardDriver::add_runs(const AttentionGradient& g, const Block& block) const {
  const Head& head = heads_[block.head];
  const int64_t width = padded(g.head_dim);
  const int first = block.block * kBlock;
  const int rows = std::min(kBlock, head.span->row_count - first);
  const int64_t column = int64_t{head.kv_head} * g.head_dim;
  bool fresh = true;
  for (size_t i = head.first_run; i < head.first_run + head.run_count; ++i) {
    const Run& run = runs_[i];
    if (first < run.key_begin || first >= run.key_end) continue;
    const float* dk =
        reinterpret_cast<const float*>(sums_.data()) + (run.sums + first - run.key_begin) * width;
    const float* dv = dk + (run.key_end - run.key_begin) * width;
    for (int r = 0; r < rows; ++r, dk += width, dv += width) {
      float* dk_out = g.dk.row(head.span->row_begin + first + r) + column;
      float* dv_out = g.dv.row(head.span->row_begin + first + r) + column;
      if (fresh) {
        std::copy_n(dk, g.head_dim, dk_out);
        std::copy_n(dv, g.head_dim, dv_out);
      } else {
        kernels_.add(dk_out, dk, g.head_dim);
        kernels_.add(dv_out, dv, g.head_dim);
      }
    }
    fresh = false;
  }
}

}  // namespace polylora::cpu
