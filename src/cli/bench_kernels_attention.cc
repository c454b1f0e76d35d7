// `bench kernels`: attention over the paged cache, decoding and prefilling, and writing the cache.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "cli/bench_kernels.h"

namespace polylora {
namespace {

struct AttentionCase {
  int sequences;
  int rows;  // of each: its last tokens
  int keys;  // of each
};

/// Sequences of one length, each with its own pages, in so many layers that a call's come from memory.
class FilledCache {
 public:
  FilledCache(Backend& ops, const LlamaShape& shape, const AttentionCase& at, DType dtype)
      : pages_(static_cast<size_t>(at.sequences * at.keys / kKvPageSize)) {
    std::iota(pages_.begin(), pages_.end(), 0);
    const auto pages = static_cast<int>(pages_.size());
    const KvCacheShape one_layer{1, pages, shape.kv_heads, shape.head_dim, dtype};
    layer_bytes_ = ops.make_kv_cache(one_layer)->bytes();
    KvCacheShape all = one_layer;
    all.layers = static_cast<int>(std::max<size_t>(1, kBeyondCaches / layer_bytes_));
    cache_ = ops.make_kv_cache(all);
    const RandomMatrix kv(at.keys, int64_t{shape.kv_heads} * shape.head_dim);
    for (int s = 0; s < at.sequences; ++s) {
      const SequenceSpan whole{0, at.keys, 0, pages_of(s, at)};
      for (int layer = 0; layer < all.layers; ++layer) ops.kv_write(*cache_, layer, kv, kv, {&whole, 1});
      spans_.push_back({s * at.rows, at.rows, at.keys - at.rows, pages_of(s, at)});
    }
  }

  KvCache& cache() { return *cache_; }
  int layer_of(int call) const { return call % cache_->shape().layers; }
  std::span<const SequenceSpan> spans() const { return spans_; }
  double layer_bytes() const { return static_cast<double>(layer_bytes_); }

 private:
  std::span<const int32_t> pages_of(int sequence, const AttentionCase& at) const {
    const auto each = static_cast<size_t>(at.keys / kKvPageSize);
    return std::span(pages_).subspan(static_cast<size_t>(sequence) * each, each);
  }

  std::vector<int32_t> pages_;
  std::unique_ptr<KvCache> cache_;
  std::vector<SequenceSpan> spans_;
  size_t layer_bytes_ = 0;
};

void measure_attention(KernelBench& bench, const LlamaShape& shape, const AttentionCase& at, DType dtype) {
  FilledCache filled(bench.ops(), shape, at, dtype);
  const int64_t width = int64_t{shape.heads} * shape.head_dim;
  const int64_t rows = int64_t{at.sequences} * at.rows;
  const RandomMatrix q(rows, width);
  RandomMatrix o(rows, width);
  const double visible = at.rows * (at.keys - 0.5 * (at.rows - 1)) * at.sequences;
  bench.measure(
      {.op = fmt::format("attention {}", dtype_name(dtype)),
       .shape = fmt::format("{}, {} x {} rows, {} keys", shape.name, at.sequences, at.rows, at.keys),
       .bytes = filled.layer_bytes(),
       .operations = 4 * visible * static_cast<double>(width),
       .peak = dtype == DType::kF32 ? &Peaks::f32 : &Peaks::bf16,
       .run = [&](int call) {
         bench.ops().attention(o, Mat(), q, filled.cache(), filled.layer_of(call), filled.spans(),
                               {.scale = 0.125f});
       }});
}

void measure_kv_write(KernelBench& bench, const LlamaShape& shape, const AttentionCase& at, DType dtype) {
  FilledCache filled(bench.ops(), shape, at, dtype);
  const int64_t rows = int64_t{at.sequences} * at.rows, width = int64_t{shape.kv_heads} * shape.head_dim;
  const RandomMatrix kv(rows, width);
  const double element = dtype == DType::kF32 ? 4 : 2;
  bench.measure({.op = fmt::format("kv_write {}", dtype_name(dtype)),
                 .shape = fmt::format("{}, {} x {} rows", shape.name, at.sequences, at.rows),
                 .bytes = 2 * static_cast<double>(rows * width) * (4 + element),
                 .run = [&](int call) {
                   bench.ops().kv_write(filled.cache(), filled.layer_of(call), kv, kv, filled.spans());
                 }});
}

}  // namespace

void bench_attention(KernelBench& bench) {
  for (const LlamaShape& shape : bench_shapes()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      bench.begin_group(fmt::format("attention: {} {}", shape.name, dtype_name(dtype)));
      for (const AttentionCase& at : {AttentionCase{1, 1, 512},
                                      {1, 1, 2048},
                                      {16, 1, 512},
                                      {16, 1, 2048},
                                      {1, 512, 512},
                                      {1, 512, 2048}})
        measure_attention(bench, shape, at, dtype);
      for (const AttentionCase& at : {AttentionCase{16, 1, 512}, {1, 512, 512}})
        measure_kv_write(bench, shape, at, dtype);
    }
  }
}

}  // namespace polylora
