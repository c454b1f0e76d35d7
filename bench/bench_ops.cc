// Speed of the CPU ops on the shapes of SmolLM2-135M and Llama-3.2-1B, beside what the machine can do.
//
//   bench_ops [--threads N] [--only linear|lora|attention|pack|pointwise|both_ways|lora_backward|training]
//   [--seconds S]
//
// Every figure is the fastest and the median of many calls: on a shared machine the fastest shows the code,
// the median the day. Weights are cycled over 192 MiB for small batches, so that they come from memory as
// they do in a real model step.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/machine.h"
#include "base/rng.h"
#include "ops/training_backend.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int threads = 0;
  std::string only;
  double seconds = 0.2;  // per figure
};

struct Timing {
  double best;
  double median;
};

/// Calls body(i), i = 0, 1, …, for about `seconds`, after two calls to warm up.
template <typename Body>
Timing time_calls(double seconds, Body body) {
  int call = 0;
  body(call++);
  body(call++);
  std::vector<double> samples;
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (samples.size() < 5 || Clock::now() < deadline) {
    const auto start = Clock::now();
    body(call++);
    samples.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(samples.begin(), samples.end());
  return {samples.front(), samples[samples.size() / 2]};
}

std::vector<float> random_floats(int64_t count, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_uniform(seed, 0, i)) - 0.5f;
  return values;
}

/// Random rows in a checkpoint dtype, with sane block scales.
class Checkpoint {
 public:
  Checkpoint(DType dtype, int64_t rows, int64_t cols)
      : bytes_(dtype_row_bytes(dtype, cols) * static_cast<size_t>(rows)) {
    const size_t row_bytes = dtype_row_bytes(dtype, cols);
    const auto block_bytes = static_cast<size_t>(dtype_block_bytes(dtype));
    for (size_t at = 0; at < bytes_.size(); ++at) bytes_[at] = static_cast<std::byte>(at * 2654435761u >> 13);
    const uint16_t scale = f32_to_f16(0.01f);
    const uint16_t weight = f32_to_bf16(0.01f);
    for (size_t at = 0; at < bytes_.size(); at += block_bytes) {
      std::memcpy(&bytes_[at], dtype == DType::kBf16 ? &weight : &scale, 2);
      if (dtype == DType::kQ4_1) std::memcpy(&bytes_[at + 2], &scale, 2);
    }
    source.cols = cols;
    for (size_t at = 0; at < bytes_.size(); at += row_bytes) source.rows.push_back({&bytes_[at], dtype});
  }

  WeightSource source;

 private:
  std::vector<std::byte> bytes_;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        backend_(make_training_backend({.name = "cpu", .threads = options.threads})),
        pool_(options.threads) {
    peaks_ = measure_peaks(pool_);
    bandwidth_ = read_bandwidth(pool_, int64_t{1} << 30);
    fmt::print("{}\nread {:.1f} GB/s; peak f32 {:.0f}, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n",
               backend_->description(), bandwidth_, peaks_.f32, peaks_.bf16, peaks_.int8);
  }

  void run() {
    if (wanted("linear")) linears();
    if (wanted("lora")) loras();
    if (wanted("attention")) attentions();
    if (wanted("pack")) packing();
    if (wanted("pointwise")) pointwise();
    if (wanted("both_ways")) linears_both_ways();
    if (wanted("lora_backward")) lora_backwards();
    if (wanted("training")) training_pointwise();
  }

 private:
  bool wanted(const char* section) const { return options_.only.empty() || options_.only == section; }

  void linears() {
    struct Shape {
      const char* name;
      int64_t k, n;
    };
    constexpr Shape kShapes[] = {{"smollm2 qkv", 576, 960},   {"smollm2 gate_up", 576, 3072},
                                 {"smollm2 down", 1536, 576}, {"smollm2 lm_head", 576, 49152},
                                 {"1B gate_up", 2048, 16384}, {"1B down", 8192, 2048}};
    struct Format {
      WeightFormat format;
      DType dtype;
      double peak;
    };
    const Format formats[] = {{WeightFormat::kF32, DType::kF32, peaks_.f32},
                              {WeightFormat::kBf16, DType::kBf16, peaks_.bf16},
                              {WeightFormat::kQ8, DType::kQ8_0, peaks_.int8},
                              {WeightFormat::kQ4, DType::kQ4_1, peaks_.int8}};
    fmt::print("\n{:16} {:9} {:>4} {:>9} {:>9} {:>7} {:>5} {:>8} {:>6}\n", "linear", "format", "M", "best us",
               "median us", "GB/s", "%read", "GFLOP/s", "%peak");
    for (const Shape& shape : kShapes) {
      for (const Format& format : formats) {
        const Checkpoint checkpoint(format.dtype, shape.n, shape.k);
        std::vector<std::unique_ptr<Weight>> copies;
        size_t bytes = 0;
        do {
          copies.push_back(backend_->pack_weight(checkpoint.source, format.format));
          bytes += copies.back()->bytes();
        } while (bytes < size_t{192} << 20);
        for (const int64_t m : {1, 2, 4, 8, 16, 32, 64, 512}) {
          if (m == 512 && shape.n > 40000) continue;
          const Timing t = time_linear(copies, m, shape.n, shape.k);
          const double gb = static_cast<double>(copies[0]->bytes()) / t.best * 1e-9;
          const double gflop = 2.0 * static_cast<double>(m * shape.n * shape.k) / t.best * 1e-9;
          fmt::print("{:16} {:9} {:4} {:9.1f} {:9.1f} {:7.1f} {:5.0f} {:8.1f} {:6.0f}\n", shape.name,
                     weight_format_name(format.format), m, t.best * 1e6, t.median * 1e6, gb,
                     100 * gb / bandwidth_, gflop, 100 * gflop / format.peak);
        }
      }
    }
  }

  Timing time_linear(const std::vector<std::unique_ptr<Weight>>& copies, int64_t m, int64_t n, int64_t k) {
    const auto x = random_floats(m * k, 1);
    std::vector<float> y(static_cast<size_t>(m * n));
    return time_calls(options_.seconds, [&](int call) {
      const auto copy = static_cast<size_t>(call) % copies.size();
      backend_->linear({y.data(), m, n}, {x.data(), m, k}, *copies[copy], {});
    });
  }

  void loras() {
    struct Site {
      const char* name;
      int64_t k, n;
      std::vector<std::pair<int64_t, int64_t>> ranges;
    };
    const Site sites[] = {{"smollm2 qkv", 576, 960, {{0, 576}, {576, 192}, {768, 192}}},
                          {"smollm2 gate_up", 576, 3072, {{0, 1536}, {1536, 1536}}},
                          {"smollm2 down", 1536, 576, {{0, 576}}},
                          {"1B gate_up", 2048, 16384, {{0, 8192}, {8192, 8192}}}};
    fmt::print("\n{:16} {:>4} {:>8} {:>9} {:>9} {:>9} {:>7} {:>5}\n", "lora_delta bf16", "rank", "adapters",
               "rows", "best us", "median us", "GB/s", "%read");
    for (const Site& site : sites) {
      for (const int64_t rank : {16, 64}) {
        for (const auto& [adapters, rows] :
             {std::pair{16, 1}, std::pair{4, 4}, std::pair{1, 16}, std::pair{1, 512}}) {
          lora(site.name, site.k, site.n, site.ranges, rank, adapters, rows);
        }
      }
    }
  }

  void lora(const char* name, int64_t k, int64_t n, const std::vector<std::pair<int64_t, int64_t>>& ranges,
            int64_t rank, int adapters, int rows) {
    const auto a = random_floats(rank * k, 2);
    const auto b = random_floats(n * rank, 3);
    LoraSource source{.k = k, .n = n, .pairs = {}};
    for (const auto& [begin, count] : ranges) {
      source.pairs.push_back({begin, count, rank, 0.5f, a.data(), b.data(), DType::kF32});
    }
    std::vector<std::unique_ptr<LoraWeight>> weights;
    size_t bytes = 0;
    while (bytes < size_t{192} << 20 || weights.size() % static_cast<size_t>(adapters) != 0) {
      weights.push_back(backend_->pack_lora(source, DType::kBf16));
      bytes += weights.back()->bytes();
    }
    const int64_t total = int64_t{adapters} * rows;
    const auto x = random_floats(total * k, 4);
    std::vector<float> y(static_cast<size_t>(total * n));
    std::vector<LoraGroup> groups(static_cast<size_t>(adapters));
    const Timing t = time_calls(options_.seconds, [&](int call) {
      for (int i = 0; i < adapters; ++i) {
        const auto next = static_cast<size_t>(call * adapters + i) % weights.size();
        groups[static_cast<size_t>(i)] = {i * rows, (i + 1) * rows, weights[next].get()};
      }
      backend_->lora_delta({y.data(), total, n}, {x.data(), total, k}, groups);
    });
    const double gb = static_cast<double>(weights[0]->bytes()) * adapters / t.best * 1e-9;
    fmt::print("{:16} {:4} {:8} {:9} {:9.1f} {:9.1f} {:7.1f} {:5.0f}\n", name, rank, adapters, rows,
               t.best * 1e6, t.median * 1e6, gb, 100 * gb / bandwidth_);
  }

  void attentions() {
    fmt::print("\n{:10} {:>9} {:>6} {:>6} {:>9} {:>9} {:>7} {:>5} {:>8}\n", "attention", "sequences", "rows",
               "keys", "best us", "median us", "GB/s", "%read", "GFLOP/s");
    for (const auto& [name, heads, kv_heads, head_dim] :
         {std::tuple{"smollm2", 9, 3, 64}, std::tuple{"1B", 32, 8, 64}}) {
      for (const auto& [sequences, rows, keys] :
           {std::tuple{1, 1, 512}, std::tuple{1, 1, 2048}, std::tuple{16, 1, 512}, std::tuple{16, 1, 2048},
            std::tuple{1, 512, 512}, std::tuple{1, 512, 2048}}) {
        attention(name, heads, kv_heads, head_dim, sequences, rows, keys);
      }
    }
    attention_training();
  }

  void attention(const char* name, int heads, int kv_heads, int head_dim, int sequences, int rows, int keys) {
    const int pages_each = keys / kKvPageSize;
    const int pages = sequences * pages_each;
    const int64_t page_bytes = int64_t{kv_heads} * head_dim * kKvPageSize * 2 * 2;
    const int layers = static_cast<int>(std::max<int64_t>(1, (int64_t{192} << 20) / (page_bytes * pages)));
    const auto cache = backend_->make_kv_cache({layers, pages, kv_heads, head_dim, DType::kBf16});
    std::vector<int32_t> page_ids(static_cast<size_t>(pages));
    std::iota(page_ids.begin(), page_ids.end(), 0);
    const int64_t kv_width = int64_t{kv_heads} * head_dim;
    const auto kv = random_floats(keys * kv_width, 5);
    std::vector<SequenceSpan> spans;
    for (int s = 0; s < sequences; ++s) {
      const auto own = std::span<const int32_t>(page_ids).subspan(static_cast<size_t>(s * pages_each),
                                                                  static_cast<size_t>(pages_each));
      const SequenceSpan history{0, keys, 0, own};
      for (int l = 0; l < layers; ++l) {
        backend_->kv_write(*cache, l, {kv.data(), keys, kv_width}, {kv.data(), keys, kv_width},
                           {&history, 1});
      }
      spans.push_back({s * rows, rows, keys - rows, own});
    }
    const int64_t width = int64_t{heads} * head_dim;
    const int64_t total = int64_t{sequences} * rows;
    const auto q = random_floats(total * width, 6);
    std::vector<float> o(q.size());
    const Timing t = time_calls(options_.seconds, [&](int call) {
      backend_->attention({o.data(), total, width}, Mat(), {q.data(), total, width}, *cache, call % layers,
                          spans, {.scale = 0.125f});
    });
    const double gb = static_cast<double>(page_bytes) * pages / t.best * 1e-9;
    const double visible = static_cast<double>(rows) * (keys - 0.5 * (rows - 1)) * sequences;
    const double gflop = 4.0 * visible * static_cast<double>(width) / t.best * 1e-9;
    fmt::print("{:10} {:9} {:6} {:6} {:9.1f} {:9.1f} {:7.1f} {:5.0f} {:8.1f}\n", name, sequences, rows, keys,
               t.best * 1e6, t.median * 1e6, gb, 100 * gb / bandwidth_, gflop);
  }

  /// Whole sequences. Forward counts two products over the causal half, backward five.
  void attention_training() {
    fmt::print("\n{:10} {:>9} {:>6} {:>9} {:>8} {:>6} {:>9} {:>8} {:>6} {:>6}\n", "training", "sequences",
               "rows", "fwd us", "GFLOP/s", "%peak", "bwd us", "GFLOP/s", "%peak", "%both");
    for (const auto& [name, heads, kv_heads, head_dim] :
         {std::tuple{"smollm2", 9, 3, 64}, std::tuple{"1B", 32, 8, 64}}) {
      for (const auto& [sequences, rows] :
           {std::pair{1, 512}, std::pair{8, 64}, std::pair{4, 128}, std::pair{1, 2048}}) {
        attention_training(name, heads, kv_heads, head_dim, sequences, rows);
      }
    }
  }

  void attention_training(const char* name, int heads, int kv_heads, int head_dim, int sequences, int rows) {
    const int pages_each = rows / kKvPageSize;
    const auto cache = backend_->make_kv_cache({1, sequences * pages_each, kv_heads, head_dim, DType::kBf16});
    std::vector<int32_t> page_ids(static_cast<size_t>(sequences * pages_each));
    std::iota(page_ids.begin(), page_ids.end(), 0);
    std::vector<SequenceSpan> spans;
    for (int s = 0; s < sequences; ++s) {
      spans.push_back({s * rows, rows, 0,
                       std::span<const int32_t>(page_ids).subspan(static_cast<size_t>(s * pages_each),
                                                                  static_cast<size_t>(pages_each))});
    }
    const int64_t width = int64_t{heads} * head_dim, kv_width = int64_t{kv_heads} * head_dim;
    const int64_t total = int64_t{sequences} * rows;
    const auto kv = random_floats(total * kv_width, 5);
    const auto q = random_floats(total * width, 6);
    const auto d_o = random_floats(total * width, 7);
    std::vector<float> o(q.size()), lse(static_cast<size_t>(total * heads)), dq(q.size()), dk(kv.size()),
        dv(kv.size());
    const ConstMat keys{kv.data(), total, kv_width}, queries{q.data(), total, width};
    backend_->kv_write(*cache, 0, keys, keys, spans);
    const AttentionParams params{.scale = 0.125f};
    const Timing forward = time_calls(options_.seconds, [&](int) {
      backend_->attention({o.data(), total, width}, {lse.data(), total, heads}, queries, *cache, 0, spans,
                          params);
    });
    const Timing backward = time_calls(options_.seconds, [&](int) {
      backend_->attention_backward({dq.data(), total, width}, {dk.data(), total, kv_width},
                                   {dv.data(), total, kv_width}, {d_o.data(), total, width},
                                   {o.data(), total, width}, {lse.data(), total, heads}, queries, keys, keys,
                                   head_dim, spans, params, DType::kBf16);
    });
    const double product = static_cast<double>(rows) * rows * static_cast<double>(width) * sequences * 1e-9;
    const auto percent = [&](double gflop, double seconds) { return 100 * gflop / seconds / peaks_.bf16; };
    fmt::print("{:10} {:9} {:6} {:9.1f} {:8.1f} {:6.0f} {:9.1f} {:8.1f} {:6.0f} {:6.0f}\n", name, sequences,
               rows, forward.best * 1e6, 2 * product / forward.best, percent(2 * product, forward.best),
               backward.best * 1e6, 5 * product / backward.best, percent(5 * product, backward.best),
               percent(7 * product, forward.best + backward.best));
  }

  void packing() {
    fmt::print("\n{:24} {:>9} {:>9} {:>7}\n", "pack", "best ms", "median ms", "GB/s");
    for (const auto& [dtype, format] :
         {std::pair{DType::kBf16, WeightFormat::kBf16}, std::pair{DType::kF32, WeightFormat::kBf16},
          std::pair{DType::kQ8_0, WeightFormat::kQ8}, std::pair{DType::kQ4_1, WeightFormat::kQ4},
          std::pair{DType::kBf16, WeightFormat::kQ8}}) {
      const Checkpoint checkpoint(dtype, 16384, 2048);
      const Timing t =
          time_calls(options_.seconds, [&](int) { backend_->pack_weight(checkpoint.source, format); });
      const double bytes = static_cast<double>(dtype_row_bytes(dtype, 2048)) * 16384;
      fmt::print("{:24} {:9.1f} {:9.1f} {:7.1f}\n",
                 fmt::format("{} as {} 2048x16384", dtype_name(dtype), weight_format_name(format)),
                 t.best * 1e3, t.median * 1e3, bytes / t.best * 1e-9);
    }
    const auto data = random_floats(1536 * 64, 7);
    const auto pack_site = [&](int64_t k, int64_t n, const std::vector<std::pair<int64_t, int64_t>>& ranges) {
      LoraSource source{.k = k, .n = n, .pairs = {}};
      for (const auto& [begin, count] : ranges) {
        source.pairs.push_back({begin, count, 16, 1.0f, data.data(), data.data(), DType::kF32});
      }
      return backend_->pack_lora(source, DType::kBf16);
    };
    const Timing t = time_calls(options_.seconds, [&](int) {
      std::vector<std::unique_ptr<LoraWeight>> sites;
      for (int layer = 0; layer < 30; ++layer) {
        sites.push_back(pack_site(576, 960, {{0, 576}, {576, 192}, {768, 192}}));
        sites.push_back(pack_site(576, 576, {{0, 576}}));
        sites.push_back(pack_site(576, 3072, {{0, 1536}, {1536, 1536}}));
        sites.push_back(pack_site(1536, 576, {{0, 576}}));
      }
    });
    fmt::print("{:24} {:9.1f} {:9.1f}\n", "smollm2 adapter r16", t.best * 1e3, t.median * 1e3);
  }

  void pointwise() {
    fmt::print("\n{:24} {:>6} {:>9} {:>9}\n", "pointwise", "rows", "best us", "median us");
    for (const int64_t rows : {1, 16, 512}) {
      const auto x = random_floats(rows * 16384, 8);
      std::vector<float> y(x.size());
      const auto report = [&](const char* name, auto body) {
        const Timing t = time_calls(options_.seconds, [&](int) { body(); });
        fmt::print("{:24} {:6} {:9.2f} {:9.2f}\n", name, rows, t.best * 1e6, t.median * 1e6);
      };
      report("rmsnorm 2048", [&] {
        backend_->rmsnorm({y.data(), rows, 2048}, {}, {x.data(), rows, 2048}, {},
                          std::span(x).subspan(0, 2048), 1e-5f);
      });
      report("glu 8192", [&] {
        backend_->glu({y.data(), rows, 8192}, {x.data(), rows, 16384}, GluActivation::kSilu);
      });
      report("add 2048", [&] { backend_->add({y.data(), rows, 2048}, {x.data(), rows, 2048}); });
    }
  }

  /// linear and linear_dx take turns, so that both see the same machine; the peak is measured beside them.
  void linears_both_ways() {
    struct Shape {
      const char* name;
      int64_t k, n, rows;
    };
    constexpr Shape kShapes[] = {{"smollm2 qkv", 576, 960, 512},       {"smollm2 o", 576, 576, 512},
                                 {"smollm2 gate_up", 576, 3072, 512},  {"smollm2 down", 1536, 576, 512},
                                 {"smollm2 lm_head", 576, 49152, 128}, {"smollm2 lm_head", 576, 49152, 256},
                                 {"1B qkv", 2048, 3072, 512},          {"1B gate_up", 2048, 16384, 512},
                                 {"1B down", 8192, 2048, 512}};
    fmt::print("\n{:16} {:9} {:>5} {:>8} {:>8} {:>6} {:>8} {:>8} {:>6} {:>6}  (GFLOP/s)\n", "both ways",
               "format", "T", "linear", "median", "%peak", "dx", "median", "%peak", "ratio");
    for (const Shape& shape : kShapes) {
      for (const auto& [format, dtype] :
           {std::pair{WeightFormat::kBf16, DType::kBf16}, std::pair{WeightFormat::kQ4, DType::kQ4_1}}) {
        if (format != WeightFormat::kBf16 && shape.n != 3072) continue;
        both_ways(shape.name, shape.k, shape.n, shape.rows, format, dtype);
      }
    }
  }

  void both_ways(const char* name, int64_t k, int64_t n, int64_t rows, WeightFormat format, DType dtype) {
    const Checkpoint checkpoint(dtype, n, k);
    const auto weight = backend_->pack_weight(checkpoint.source, format);
    const auto input = random_floats(rows * k, 1);
    const auto gradient = random_floats(rows * n, 2);
    std::vector<float> y(gradient.size());
    std::vector<float> dx(input.size());
    std::vector<Timing> timings = time_in_turns(
        {[&] {
           backend_->linear({y.data(), rows, n}, {input.data(), rows, k}, *weight, {});
         },
         [&] {
           backend_->linear_dx({dx.data(), rows, k}, {gradient.data(), rows, n}, *weight, false);
         }});
    const double peak = std::max(peaks_.bf16, measure_peaks(pool_).bf16);
    const double gflop = 2e-9 * static_cast<double>(rows * n * k);
    const Timing& forward = timings[0];
    const Timing& back = timings[1];
    fmt::print("{:16} {:9} {:5} {:8.1f} {:8.1f} {:6.0f} {:8.1f} {:8.1f} {:6.0f} {:6.2f}\n", name,
               weight_format_name(format), rows, gflop / forward.best, gflop / forward.median,
               100 * gflop / forward.best / peak, gflop / back.best, gflop / back.median,
               100 * gflop / back.best / peak, forward.best / back.best);
  }

  std::vector<Timing> time_in_turns(const std::vector<std::function<void()>>& bodies) {
    std::vector<std::vector<double>> samples(bodies.size());
    const auto deadline = Clock::now() + std::chrono::duration<double>(options_.seconds);
    for (int call = 0; call < 7 || Clock::now() < deadline; ++call) {
      for (size_t i = 0; i < bodies.size(); ++i) {
        const auto start = Clock::now();
        bodies[i]();
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        if (call >= 2) samples[i].push_back(seconds);  // two calls to warm up
      }
    }
    std::vector<Timing> timings;
    for (std::vector<double>& s : samples) {
      std::sort(s.begin(), s.end());
      timings.push_back({s.front(), s[s.size() / 2]});
    }
    return timings;
  }

  /// What LoRA adds to the backward pass of one layer: all sites, beside linear and linear_dx of the same.
  void lora_backwards() {
    struct Site {
      const char* name;
      int64_t k, n;
      std::vector<std::pair<int64_t, int64_t>> ranges;
    };
    const std::pair<const char*, std::vector<Site>> models[] = {
        {"smollm2",
         {{"qkv", 576, 960, {{0, 576}, {576, 192}, {768, 192}}},
          {"o", 576, 576, {{0, 576}}},
          {"gate_up", 576, 3072, {{0, 1536}, {1536, 1536}}},
          {"down", 1536, 576, {{0, 576}}}}},
        {"1B",
         {{"qkv", 2048, 3072, {{0, 2048}, {2048, 512}, {2560, 512}}},
          {"o", 2048, 2048, {{0, 2048}}},
          {"gate_up", 2048, 16384, {{0, 8192}, {8192, 8192}}},
          {"down", 8192, 2048, {{0, 2048}}}}}};
    fmt::print("\n{:20} {:>4} {:>9} {:>9} {:>9} {:>8} {:>7}\n", "lora_backward T=512", "rank", "linear us",
               "dx us", "lora us", "GFLOP/s", "% both");
    for (const auto& [model, sites] : models) {
      for (const int64_t rank : {16, 64}) {
        if (rank == 64 && sites[0].k > 1000) continue;
        double both = 0.0;
        double lora = 0.0;
        for (const Site& site : sites) {
          const auto t =
              lora_backward(fmt::format("{} {}", model, site.name), site.k, site.n, site.ranges, rank);
          both += t[0].best + t[1].best;
          lora += t[2].best;
        }
        fmt::print("{:20} {:4} {:>37.1f} {:>16.1f}\n", fmt::format("{} layer", model), rank, lora * 1e6,
                   100 * lora / both);
      }
    }
  }

  std::vector<Timing> lora_backward(const std::string& name, int64_t k, int64_t n,
                                    const std::vector<std::pair<int64_t, int64_t>>& ranges, int64_t rank) {
    constexpr int64_t kRows = 512;
    const Checkpoint checkpoint(DType::kBf16, n, k);
    const auto weight = backend_->pack_weight(checkpoint.source, WeightFormat::kBf16);
    const auto x = random_floats(kRows * k, 1), dy = random_floats(kRows * n, 2);
    std::vector<float> y(dy.size()), dx(x.size());
    const auto pairs_count = static_cast<int64_t>(ranges.size());
    auto a = random_floats(pairs_count * rank * k, 3), b = random_floats(n * rank, 4);
    auto da = a, db = b;
    std::vector<LoraGradient> pairs;
    double flop = 0.0;
    for (int64_t i = 0; i < pairs_count; ++i) {
      const auto& [begin, count] = ranges[static_cast<size_t>(i)];
      pairs.push_back({begin, count, 0.5f, Mat(a.data() + i * rank * k, rank, k),
                       Mat(b.data() + begin * rank, count, rank), Mat(da.data() + i * rank * k, rank, k),
                       Mat(db.data() + begin * rank, count, rank)});
      flop += static_cast<double>(kRows * rank * (6 * k + 4 * count));
    }
    const auto t =
        time_in_turns({[&] {
                         backend_->linear({y.data(), kRows, n}, {x.data(), kRows, k}, *weight, {});
                       },
                       [&] {
                         backend_->linear_dx({dx.data(), kRows, k}, {dy.data(), kRows, n}, *weight, false);
                       },
                       [&] {
                         backend_->lora_backward({dx.data(), kRows, k}, {dy.data(), kRows, n},
                                                 {x.data(), kRows, k}, pairs, DType::kBf16);
                       }});
    fmt::print("{:20} {:4} {:9.1f} {:9.1f} {:9.1f} {:8.1f} {:7.1f}\n", name, rank, t[0].best * 1e6,
               t[1].best * 1e6, t[2].best * 1e6, flop / t[2].best * 1e-9,
               100 * t[2].best / (t[0].best + t[1].best));
    return t;
  }

  void training_pointwise() {
    fmt::print("\n{:24} {:>6} {:>9} {:>9} {:>7}\n", "training", "rows", "best us", "median us", "GB/s");
    const auto report = [&](const char* name, int64_t rows, int64_t bytes, auto body) {
      const Timing t = time_calls(options_.seconds, [&](int) { body(); });
      fmt::print("{:24} {:6} {:9.1f} {:9.1f} {:7.1f}\n", name, rows, t.best * 1e6, t.median * 1e6,
                 static_cast<double>(bytes) / t.best * 1e-9);
    };
    for (const int64_t vocabulary : {49152, 128256}) {
      constexpr int64_t kRows = 128;
      const auto fresh = random_floats(kRows * vocabulary, 1);
      auto logits = fresh;
      const std::vector<int32_t> targets(kRows, 17);
      const std::vector<float> weights(kRows, 1.0f);
      std::vector<float> loss(kRows);
      report(vocabulary < 100000 ? "cross_entropy 49152" : "cross_entropy 128256", kRows,
             kRows * vocabulary * 8, [&] {
               backend_->cross_entropy(loss, {logits.data(), kRows, vocabulary}, targets, weights);
             });
    }
    constexpr int64_t kRows = 512;
    const auto x = random_floats(kRows * 16384, 2);
    auto y = random_floats(kRows * 16384, 3);
    const std::vector<uint64_t> keys(kRows, 5);
    for (const int64_t f : {1536, 8192}) {
      report(f == 1536 ? "glu_backward 1536" : "glu_backward 8192", kRows, kRows * f * 20, [&] {
        backend_->glu_backward({y.data(), kRows, 2 * f}, {x.data(), kRows, f}, {x.data(), kRows, 2 * f},
                               GluActivation::kSilu);
      });
    }
    for (const int64_t d : {576, 2048}) {
      report(d == 576 ? "rmsnorm_backward 576" : "rmsnorm_backward 2048", kRows, kRows * d * 16, [&] {
        backend_->rmsnorm_backward({y.data(), kRows, d}, {x.data(), kRows, d}, {x.data(), kRows, d},
                                   std::span(x).subspan(0, static_cast<size_t>(d)), 1e-5f);
      });
    }
    report("dropout 576", kRows, kRows * 576 * 8, [&] {
      backend_->dropout({y.data(), kRows, 576}, {x.data(), kRows, 576}, 0.1f, {keys, 1}, false);
    });
    std::vector<float> p(size_t{5} << 20), m(p.size()), v(p.size()), g(p.size());
    const auto bytes = static_cast<int64_t>(p.size()) * 28;
    report("adamw 5M", 1, bytes, [&] { backend_->adamw(p, m, v, g, {.learning_rate = 1e-3f}); });
    report("sum_squares 5M", 1, bytes / 7, [&] { backend_->sum_squares(p); });
    report("lora_merge 3072x576 r16", 3072, 3072 * 576 * 8, [&] {
      backend_->lora_merge({y.data(), 3072, 576}, {x.data(), 16, 576}, {x.data(), 3072, 16}, 0.5f);
    });
  }

  Options options_;
  std::unique_ptr<TrainingBackend> backend_;

  ThreadPool pool_;
  Peaks peaks_;
  double bandwidth_ = 0.0;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--threads") options.threads = std::atoi(argv[i + 1]);
    if (flag == "--only") options.only = argv[i + 1];
    if (flag == "--seconds") options.seconds = std::atof(argv[i + 1]);
  }
  return options;
}

}  // namespace
}  // namespace polylora

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);  // a run that is cut short has still said something
  polylora::bench::Bench(polylora::bench::parse(argc, argv)).run();
  return 0;
}
