// `bench kernels`: the ops of a forward that do little to each element.
#include <fmt/format.h>

#include <numeric>

#include "cli/bench_kernels.h"

namespace polylora {
namespace {

void measure_shape(KernelBench& bench, const LlamaShape& shape, int64_t rows) {
  const int64_t d = shape.hidden, f = shape.feed_forward;
  const int64_t q_width = int64_t{shape.heads} * shape.head_dim,
                kv_width = int64_t{shape.kv_heads} * shape.head_dim;
  const RandomMatrix x(rows, d), delta(rows, d), gate_up(rows, 2 * f), table(rows, shape.head_dim);
  RandomMatrix y(rows, d), sum(rows, d), activated(rows, f), q(rows, q_width), k(rows, kv_width);
  RandomMatrix gain(1, d), scales(1, rows);
  constexpr int64_t kExperts = 128;
  const RandomMatrix logits(rows, kExperts);
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  std::iota(ids.begin(), ids.end(), 0);
  const auto embeddings =
      bench.ops().pack_weight(RandomCheckpoint(WeightFormat::kBf16, 4096, d).source(), WeightFormat::kBf16);

  const auto measure = [&](const char* op, int64_t floats_a_row, const std::function<void()>& run) {
    bench.measure({.op = op,
                   .shape = fmt::format("{}, {} rows", shape.name, rows),
                   .bytes = 4 * static_cast<double>(rows * floats_a_row),
                   .run = [&](int) { run(); }});
  };
  Backend& ops = bench.ops();
  const Mat no_sum;
  const ConstMat no_delta;
  measure("embed", 2 * d, [&] { ops.embed(y, *embeddings, ids); });
  measure("rmsnorm", 2 * d, [&] { ops.rmsnorm(y, no_sum, x, no_delta, gain.span(), 1e-5f); });
  measure("rmsnorm of a sum", 4 * d, [&] { ops.rmsnorm(y, sum, x, delta, gain.span(), 1e-5f); });
  measure("rmsnorm of heads", 2 * q_width, [&] {
    ops.rmsnorm(q, no_sum, q, no_delta, gain.span().first(static_cast<size_t>(shape.head_dim)), 1e-5f);
  });
  measure("rope", 2 * (q_width + kv_width), [&] { ops.rope(q, k, shape.head_dim, ids, table); });
  measure("glu silu", 3 * f, [&] { ops.glu(activated, gate_up, GluActivation::kSilu); });
  measure("glu gelu_tanh", 3 * f, [&] { ops.glu(activated, gate_up, GluActivation::kGeluTanh); });
  measure("softcap", 2 * f, [&] { ops.softcap(activated, 30.0f); });
  measure("add", 3 * d, [&] { ops.add(sum, x); });
  measure("gather_rows", 2 * d, [&] { ops.gather_rows(y, x, ids); });
  measure("scatter_add", 3 * d, [&] { ops.scatter_add(y, x, ids, scales.span()); });
  measure("clear", d, [&] { ops.clear(y); });
  measure("route, 8 of 128", kExperts, [&] { ops.route(logits, {.per_token = 8, .normalises = true}); });
  measure("scale_columns", 2 * d, [&] { ops.scale_columns(y, gain.span()); });
}

}  // namespace

void bench_pointwise(KernelBench& bench) {
  for (const LlamaShape& shape : bench_shapes()) {
    bench.begin_group(fmt::format("pointwise: {} (in the caches, hence above 100 %)", shape.name));
    for (const int64_t rows : {1, 16, 512}) measure_shape(bench, shape, rows);
  }
}

}  // namespace polylora
