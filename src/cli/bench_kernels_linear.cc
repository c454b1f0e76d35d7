// `bench kernels`: the base model's linears, against the machine and against another library, and packing.
#include <fmt/format.h>

#include "cli/bench_kernels.h"
#include "cli/matmul_reference.h"

namespace polylora {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kQ8,
                                     WeightFormat::kQ4};

/// Copies of one weight, so many that each call's comes from memory, as it does in a model's step.
class WeightCopies {
 public:
  WeightCopies(Backend& ops, const LinearShape& shape, WeightFormat format) {
    const RandomCheckpoint checkpoint(format, shape.n, shape.k);
    for (size_t bytes = 0; bytes < kBeyondCaches; bytes += copies_.back()->bytes())
      copies_.push_back(ops.pack_weight(checkpoint.source(), format));
  }
  const Weight& of_call(int call) const { return *copies_[static_cast<size_t>(call) % copies_.size()]; }

 private:
  std::vector<std::unique_ptr<Weight>> copies_;
};

void measure_linear(KernelBench& bench, const LinearShape& shape, const WeightCopies& weights, int64_t rows) {
  const RandomMatrix x(rows, shape.k);
  RandomMatrix y(rows, shape.n);
  const Weight& weight = weights.of_call(0);
  bench.measure({.op = fmt::format("linear {}", weight_format_name(weight.format())),
                 .shape = fmt::format("{} {}x{}, {} rows", shape.name, shape.k, shape.n, rows),
                 .bytes = static_cast<double>(weight.bytes()),
                 .operations = 2.0 * static_cast<double>(rows * shape.k * shape.n),
                 .peak = peak_of(weight.format()),
                 .run = [&](int call) { bench.ops().linear(y, x, weights.of_call(call), {}); }});
}

/// Ours and theirs in turns.
void measure_against(KernelBench& bench, const MatmulReference& reference, int64_t k, int64_t n,
                     WeightFormat format, int64_t rows) {
  ReferenceMatmul* theirs = reference.prepare(rows, n, k, format == WeightFormat::kBf16, bench.threads());
  if (theirs == nullptr) return;  // not on this machine
  const auto weight = bench.ops().pack_weight(RandomCheckpoint(format, n, k).source(), format);
  const RandomMatrix x(rows, k);
  RandomMatrix y(rows, n);
  const Figure ours{.op = fmt::format("linear {}", weight_format_name(format)),
                    .shape = fmt::format("{}x{}, {} rows", k, n, rows),
                    .bytes = static_cast<double>(weight->bytes()),
                    .operations = 2.0 * static_cast<double>(rows * k * n),
                    .peak = peak_of(format),
                    .run = [&](int) { bench.ops().linear(y, x, *weight, {}); }};
  Figure other = ours;
  other.op = fmt::format("{} {}", reference.name, weight_format_name(format));
  other.run = [&](int) { reference.run(theirs); };
  const std::vector<double> seconds = bench.measure({ours, other});
  bench.note(fmt::format("{:22} {:.2f} of the reference's speed", "", seconds[1] / seconds[0]));
  reference.destroy(theirs);
}

void measure_packing(KernelBench& bench, const LinearShape& shape, WeightFormat from, WeightFormat to) {
  const RandomCheckpoint checkpoint(from, shape.n, shape.k);
  const size_t source_bytes =
      dtype_row_bytes(checkpoint.source().rows[0].dtype, shape.k) * static_cast<size_t>(shape.n);
  const size_t packed_bytes = bench.ops().pack_weight(checkpoint.source(), to)->bytes();
  bench.measure({.op = "pack_weight",
                 .shape = fmt::format("{} as {} {}x{}", weight_format_name(from), weight_format_name(to),
                                      shape.k, shape.n),
                 .bytes = static_cast<double>(source_bytes + packed_bytes),
                 .run = [&](int) { bench.ops().pack_weight(checkpoint.source(), to); }});
}

}  // namespace

void bench_linear(KernelBench& bench) {
  const LlamaShape &small = bench_shapes()[0], &large = bench_shapes()[1];
  for (const LinearShape& shape :
       {small.qkv(), small.gate_up(), small.down(), small.lm_head(), large.gate_up(), large.down()}) {
    bench.begin_group(fmt::format("linear: {}", shape.name));
    for (const WeightFormat format : kFormats) {
      const WeightCopies weights(bench.ops(), shape, format);
      for (const int64_t rows : {1, 4, 16, 64, 512}) {
        if (rows == 512 && shape.n >= small.vocabulary) continue;  // logits of that many rows: never
        measure_linear(bench, shape, weights, rows);
      }
    }
  }
}

void bench_reference(KernelBench& bench) {
  const MatmulReference* reference = find_matmul_reference();
  if (reference == nullptr) {
    bench.note(
        fmt::format("\nreference: left out, there is no {} beside the executable (docs/dependencies.md)",
                    kMatmulReferenceFile));
    return;
  }
  bench.begin_group(fmt::format("reference: {}", reference->name));
  if (bench.computes_with_avx2()) reference->limit_to_avx2();
  for (const auto& [k, n] : {std::pair<int64_t, int64_t>{576, 1536}, {2048, 8192}}) {
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kF32}) {
      for (const int64_t rows : {64, 512}) measure_against(bench, *reference, k, n, format, rows);
    }
  }
}

void bench_pack(KernelBench& bench) {
  bench.begin_group("pack: at load");
  const LinearShape shape = bench_shapes()[1].gate_up();
  for (const auto& [from, to] : {std::pair{WeightFormat::kBf16, WeightFormat::kBf16},
                                 {WeightFormat::kF32, WeightFormat::kBf16},
                                 {WeightFormat::kQ8, WeightFormat::kQ8},
                                 {WeightFormat::kQ4, WeightFormat::kQ4},
                                 {WeightFormat::kBf16, WeightFormat::kQ8},
                                 {WeightFormat::kBf16, WeightFormat::kQ4}})
    measure_packing(bench, shape, from, to);
}

}  // namespace polylora
