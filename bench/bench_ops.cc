// Speed of the CPU ops on the shapes of SmolLM2-135M and Llama-3.2-1B, beside what the machine can do.
//
//   bench_ops [--threads N] [--only linear|lora|attention|pack|pointwise] [--seconds S]
//
// Every figure is the fastest and the median of many calls: on a shared machine the fastest shows the code,
// the median the day. Weights are cycled over 192 MiB for small batches, so that they come from memory as
// they do in a real model step.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/rng.h"
#include "machine.h"
#include "ops/training_backend.h"

namespace polylora::bench {
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
      : options_(options), backend_(make_training_backend({.name = "cpu", .threads = options.threads})) {
    ThreadPool pool(options.threads);
    peaks_ = measure_peaks(pool);
    bandwidth_ = read_bandwidth(pool, int64_t{1} << 30);
    fmt::print("{}\nread {:.1f} GB/s; peak f32 {:.0f}, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n",
               backend_->description(), bandwidth_, peaks_.f32, peaks_.bf16, peaks_.int8);
  }

  void run() {
    if (wanted("linear")) linears();
    if (wanted("lora")) loras();
    if (wanted("attention")) attentions();
    if (wanted("pack")) packing();
    if (wanted("pointwise")) pointwise();
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

  Options options_;
  std::unique_ptr<TrainingBackend> backend_;
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
}  // namespace polylora::bench

int main(int argc, char** argv) {
  polylora::bench::Bench(polylora::bench::parse(argc, argv)).run();
  return 0;
}
