// `bench kernels`: what only training and merging compute.
#include <fmt/format.h>

#include <numeric>

#include "cli/bench_kernels.h"

namespace polylora {
namespace {

constexpr int64_t kRows = 512;

/// linear beside linear_dx, and what LoRA's backward adds to the two.
void measure_site(KernelBench& bench, const LinearShape& shape, WeightFormat format, int64_t rank) {
  const auto weight = bench.ops().pack_weight(RandomCheckpoint(format, shape.n, shape.k).source(), format);
  const RandomMatrix x(kRows, shape.k), dy(kRows, shape.n);
  RandomMatrix y(kRows, shape.n), dx(kRows, shape.k);
  const auto pairs_count = static_cast<int64_t>(shape.ranges.size());
  RandomMatrix a(pairs_count * rank, shape.k), da(pairs_count * rank, shape.k), b(shape.n, rank),
      db(shape.n, rank);
  std::vector<LoraGradient> pairs;
  double lora_products = 0;
  for (const auto& [begin, count] : shape.ranges) {
    const int64_t row = static_cast<int64_t>(pairs.size()) * rank;
    pairs.push_back({begin, count, 0.5f, a.mat().row_range(row, rank), b.mat().row_range(begin, count),
                     da.mat().row_range(row, rank), db.mat().row_range(begin, count)});
    lora_products += static_cast<double>(kRows * rank * (3 * shape.k + 2 * count));
  }
  const double products = static_cast<double>(kRows * shape.k * shape.n);
  const auto figure = [&](std::string op, double multiplied, std::function<void(int)> run) {
    return Figure{.op = std::move(op),
                  .shape = fmt::format("{}, {} rows", shape.name, kRows),
                  .bytes = 0,
                  .operations = 2 * multiplied,
                  .peak = &Peaks::bf16,
                  .run = std::move(run)};
  };
  Figure forward = figure(fmt::format("linear {}", weight_format_name(format)), products,
                          [&](int) { bench.ops().linear(y, x, *weight, {}); });
  forward.peak = peak_of(format);
  bench.measure({forward,
                 figure(fmt::format("linear_dx {}", weight_format_name(format)), products,
                        [&](int) { bench.ops().linear_dx(dx, dy, *weight, false); }),
                 figure(fmt::format("lora_backward r{}", rank), lora_products,
                        [&](int) { bench.ops().lora_backward(dx, dy, x, pairs, DType::kBf16); })});
}

/// Whole sequences. Forward counts two products over the causal half, backward five.
void measure_attention(KernelBench& bench, const LlamaShape& shape, int sequences, int rows) {
  const auto pages_each = static_cast<size_t>(rows / kKvPageSize);
  std::vector<int32_t> pages(static_cast<size_t>(sequences) * pages_each);
  std::iota(pages.begin(), pages.end(), 0);
  const auto cache = bench.ops().make_kv_cache(
      {1, static_cast<int>(pages.size()), shape.kv_heads, shape.head_dim, DType::kBf16});
  std::vector<SequenceSpan> spans;
  for (int s = 0; s < sequences; ++s)
    spans.push_back(
        {s * rows, rows, 0, std::span(pages).subspan(static_cast<size_t>(s) * pages_each, pages_each)});
  const int64_t all = int64_t{sequences} * rows, width = int64_t{shape.heads} * shape.head_dim;
  const int64_t kv_width = int64_t{shape.kv_heads} * shape.head_dim;
  const RandomMatrix q(all, width), kv(all, kv_width), d_o(all, width);
  RandomMatrix o(all, width), lse(all, shape.heads), dq(all, width), dk(all, kv_width), dv(all, kv_width);
  bench.ops().kv_write(*cache, 0, kv, kv, spans);
  const AttentionParams params{.scale = 0.125f};
  const double product = static_cast<double>(sequences) * rows * rows * static_cast<double>(width);
  const auto figure = [&](const char* op, int products, std::function<void(int)> run) {
    return Figure{.op = op,
                  .shape = fmt::format("{}, {} x {} tokens", shape.name, sequences, rows),
                  .operations = products * product,
                  .peak = &Peaks::bf16,
                  .run = std::move(run)};
  };
  bench.measure({figure("attention with lse", 2,
                        [&](int) { bench.ops().attention(o, lse, q, *cache, 0, spans, params); }),
                 figure("attention_backward", 5, [&](int) {
                   bench.ops().attention_backward(dq, dk, dv, d_o, o, lse, q, kv, kv, shape.head_dim, spans,
                                                  params, DType::kBf16);
                 })});
}

/// Ops that move more than they compute: `floats` read and written by a call.
void measure_moving(KernelBench& bench, std::string op, std::string shape, int64_t floats,
                    const std::function<void()>& run) {
  bench.measure({.op = std::move(op),
                 .shape = std::move(shape),
                 .bytes = 4 * static_cast<double>(floats),
                 .run = [&](int) { run(); }});
}

void measure_pointwise(KernelBench& bench, const LlamaShape& shape) {
  TrainingBackend& ops = bench.ops();
  const int64_t d = shape.hidden, f = shape.feed_forward;
  const int64_t q_width = int64_t{shape.heads} * shape.head_dim,
                kv_width = int64_t{shape.kv_heads} * shape.head_dim;
  const RandomMatrix x(kRows, d), dy(kRows, d), gate_up(kRows, 2 * f), d_activated(kRows, f),
      table(kRows, shape.head_dim);
  RandomMatrix dx(kRows, d), d_gate_up(kRows, 2 * f), dq(kRows, q_width), dk(kRows, kv_width), gain(1, d),
      dots(1, d);
  RandomMatrix noise_scale(1, kRows);
  std::vector<int32_t> ids(kRows);
  std::iota(ids.begin(), ids.end(), 0);
  const std::vector<uint64_t> keys(kRows, 5);
  const auto measure = [&](const char* op, int64_t floats_a_row, const std::function<void()>& run) {
    measure_moving(bench, op, fmt::format("{}, {} rows", shape.name, kRows), kRows * floats_a_row, run);
  };
  measure("rmsnorm_backward", 4 * d, [&] { ops.rmsnorm_backward(dx, dy, x, gain.span(), 1e-5f); });
  measure("rope_backward", 2 * (q_width + kv_width),
          [&] { ops.rope_backward(dq, dk, shape.head_dim, ids, table); });
  measure("glu_backward", 5 * f,
          [&] { ops.glu_backward(d_gate_up, d_activated, gate_up, GluActivation::kSilu); });
  measure("scatter_rows", 2 * d, [&] { ops.scatter_rows(dx, x, ids); });
  measure("dropout", 2 * d, [&] { ops.dropout(dx, x, 0.1f, {keys, 1}, false); });
  measure("add_noise", 2 * d, [&] { ops.add_noise(dx, noise_scale.span(), {keys, 1}); });
  measure("embed_backward", 3 * d, [&] { ops.embed_backward(dx, dy, ids); });
  measure("column_dots", 2 * d, [&] { ops.column_dots(dots.span(), x, dy); });
}

void measure_full_matrix(KernelBench& bench, const LinearShape& shape) {
  const RandomMatrix x(kRows, shape.k), dy(kRows, shape.n), a(16, shape.k), b(shape.n, 16);
  RandomMatrix w(shape.n, shape.k);
  bench.measure({.op = "linear_dw bf16",
                 .shape = fmt::format("{}, {} rows", shape.name, kRows),
                 .operations = 2.0 * static_cast<double>(kRows * shape.k * shape.n),
                 .peak = &Peaks::bf16,
                 .run = [&](int) { bench.ops().linear_dw(w, dy, x, DType::kBf16); }});
  measure_moving(bench, "lora_merge r16", shape.name, 2 * shape.k * shape.n,
                 [&] { bench.ops().lora_merge(w, a, b, 0.5f); });
}

void measure_cross_entropy(KernelBench& bench, const LlamaShape& shape) {
  constexpr int64_t kLogitRows = 128;
  RandomMatrix logits(kLogitRows, shape.vocabulary), loss(1, kLogitRows), weights(1, kLogitRows);
  const std::vector<int32_t> targets(kLogitRows, 17);
  measure_moving(bench, "cross_entropy", fmt::format("{} rows of {}", kLogitRows, shape.vocabulary),
                 2 * kLogitRows * shape.vocabulary,
                 [&] { bench.ops().cross_entropy(loss.span(), logits, targets, weights.span()); });
}

void measure_optimizer(KernelBench& bench) {
  constexpr int64_t kParameters = int64_t{5} << 20;
  RandomMatrix p(1, kParameters), m(1, kParameters), v(1, kParameters), g(1, kParameters);
  for (float& value : v.span()) value = value * value;
  measure_moving(bench, "adamw", "5M parameters", 7 * kParameters, [&] {
    bench.ops().adamw(p.span(), m.span(), v.span(), g.span(), {.learning_rate = 1e-3f});
  });
  measure_moving(bench, "sum_squares", "5M parameters", kParameters,
                 [&] { bench.ops().sum_squares(g.span()); });
}

}  // namespace

void bench_training(KernelBench& bench) {
  for (const LlamaShape& shape : bench_shapes()) {
    bench.begin_group(fmt::format("training: {} linears", shape.name));
    for (const LinearShape& site : {shape.qkv(), shape.o(), shape.gate_up(), shape.down()})
      measure_site(bench, site, WeightFormat::kBf16, 16);
    measure_site(bench, shape.gate_up(), WeightFormat::kQ4, 64);
    measure_full_matrix(bench, shape.down());

    bench.begin_group(fmt::format("training: {} attention", shape.name));
    for (const auto& [sequences, rows] : {std::pair{1, 512}, {8, 64}, {1, 2048}})
      measure_attention(bench, shape, sequences, rows);

    bench.begin_group(fmt::format("training: {} pointwise", shape.name));
    measure_pointwise(bench, shape);
    measure_cross_entropy(bench, shape);
  }
  bench.begin_group("training: optimizer");
  measure_optimizer(bench);
}

}  // namespace polylora
