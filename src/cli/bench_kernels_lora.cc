// `bench kernels`: what adapters add to a step, and packing them.
#include <fmt/format.h>

#include "cli/bench_kernels.h"

namespace polylora {
namespace {

/// One adapter's pairs on a linear.
class RandomPairs {
 public:
  RandomPairs(const LinearShape& shape, int64_t rank) : a_(rank, shape.k), b_(shape.n, rank) {
    source_ = {.k = shape.k, .n = shape.n, .pairs = {}};
    for (const auto& [begin, count] : shape.ranges)
      source_.pairs.push_back({begin, count, rank, 0.5f, a_.data(), b_.data(), DType::kF32});
  }
  const LoraSource& source() const { return source_; }

 private:
  RandomMatrix a_, b_;
  LoraSource source_;
};

struct LoraCase {
  int64_t rank;
  DType dtype;
  int adapters;  // distinct ones in the batch
  int rows_each;
};

void measure_delta(KernelBench& bench, const LinearShape& shape, const LoraCase& at) {
  const RandomPairs pairs(shape, at.rank);
  std::vector<std::unique_ptr<LoraWeight>> weights;
  const auto adapters = static_cast<size_t>(at.adapters);
  for (size_t bytes = 0; bytes < kBeyondCaches || weights.size() % adapters != 0;
       bytes += weights.back()->bytes())
    weights.push_back(bench.ops().pack_lora(pairs.source(), at.dtype));
  const int64_t rows = int64_t{at.adapters} * at.rows_each;
  const RandomMatrix x(rows, shape.k);
  RandomMatrix y(rows, shape.n);
  std::vector<LoraGroup> groups(adapters);
  const double products = static_cast<double>(rows * at.rank) *
                          static_cast<double>(shape.k * static_cast<int64_t>(shape.ranges.size()) + shape.n);
  bench.measure(
      {.op = fmt::format("lora_delta {} r{}", dtype_name(at.dtype), at.rank),
       .shape = fmt::format("{}, {} adapters x {} rows", shape.name, at.adapters, at.rows_each),
       .bytes = static_cast<double>(weights[0]->bytes()) * at.adapters,
       .operations = 2 * products,
       .peak = at.dtype == DType::kF32 ? &Peaks::f32 : &Peaks::bf16,
       .run = [&](int call) {
         for (int i = 0; i < at.adapters; ++i) {
           const auto next = (static_cast<size_t>(call) * adapters + static_cast<size_t>(i)) % weights.size();
           groups[static_cast<size_t>(i)] = {i * at.rows_each, (i + 1) * at.rows_each, weights[next].get()};
         }
         bench.ops().lora_delta(y, x, groups);
       }});
}

void measure_packing(KernelBench& bench, const LlamaShape& shape, int64_t rank) {
  std::vector<RandomPairs> sites;
  for (const LinearShape& linear : {shape.qkv(), shape.o(), shape.gate_up(), shape.down()})
    sites.emplace_back(linear, rank);
  double bytes = 0;
  for (const RandomPairs& site : sites)
    bytes += static_cast<double>(bench.ops().pack_lora(site.source(), DType::kBf16)->bytes());
  bench.measure({.op = fmt::format("pack_lora BF16 r{}", rank),
                 .shape = fmt::format("{}, one layer, from F32", shape.name),
                 .bytes = 3 * bytes,
                 .run = [&](int) {
                   for (const RandomPairs& site : sites) bench.ops().pack_lora(site.source(), DType::kBf16);
                 }});
}

}  // namespace

void bench_lora(KernelBench& bench) {
  const LlamaShape &small = bench_shapes()[0], &large = bench_shapes()[1];
  for (const LinearShape& shape : {small.qkv(), small.gate_up(), small.down(), large.gate_up()}) {
    bench.begin_group(fmt::format("lora: {}", shape.name));
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      for (const int64_t rank : {8, 16, 64}) {
        for (const int adapters : {1, 4, 16})
          measure_delta(bench, shape, {rank, dtype, adapters, 16 / adapters});
        measure_delta(bench, shape, {rank, dtype, 1, 512});
      }
    }
  }
  bench.begin_group("lora: packing");
  for (const LlamaShape& shape : bench_shapes()) measure_packing(bench, shape, 16);
}

}  // namespace polylora
