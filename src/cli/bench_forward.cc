// polylora bench forward: the model's steps alone, without scheduling, sampling and HTTP. What a batch of
// many adapters costs against a merged model, and how far both are from the machine's limits.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "base/machine.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "cli/values.h"
#include "load/load_metrics.h"
#include "model/forward.h"
#include "model/random_model.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kProbeBytes = 256 << 20;
constexpr int kMostStreams = 4096;

struct BenchForwardFlags {
  BenchModelFlags model;
  int prefill = 512;
  std::vector<std::string> streams = {"1", "16"};
  std::vector<std::string> adapters = {"1", "4", "16"};
  int rank = 16;
  std::string lora_dtype = "bfloat16";
  int context = 192;
  int steps = 8;
  int rounds = 5;
  std::string json;
};

void add_flags(FlagSet& flags, BenchForwardFlags& values) {
  add_bench_model_flags(flags, values.model);
  flags.integer("--prefill", values.prefill, 1, "tokens of the prompt that is measured");
  flags.list("--streams", values.streams, "N", "sequences that are decoded at a time");
  flags.list(
      "--adapters", values.adapters, "N",
      "distinct adapters in a batch, beside none (a merged model); those above --streams are left out");
  flags.integer("--rank", values.rank, 1, "of the adapters, which are random, on all seven modules");
  flags.choice("--lora-dtype", values.lora_dtype, {"bfloat16", "float32", "int8"},
               "how the adapters are held");
  flags.integer("--context", values.context, 1, "tokens before the one that is decoded");
  flags.integer("--steps", values.steps, 1, "of each kind in a round");
  flags.integer("--rounds", values.rounds, 1, "of all kinds in turn; medians are over rounds");
  flags.text("--json", values.json, "FILE", "where to write the figures as well");
}

std::vector<int> parse_counts(const std::vector<std::string>& texts, const char* flag) {
  std::vector<int> counts;
  for (const std::string& text : texts) {
    const int64_t count = parse_count(flag, text);
    if (count < 1 || count > kMostStreams)
      fail(ErrorCode::kInvalidArgument, "{} {}: give numbers from 1 to {}", flag, text, kMostStreams);
    counts.push_back(static_cast<int>(count));
  }
  return counts;
}

/// One kind of step: `rows` new tokens in each of `streams` sequences that have `context` tokens already.
struct Kind {
  int streams;
  int rows;
  int context;
  int adapters;                     // distinct ones; 0: the base alone, which costs what a merged model costs
  std::vector<double> rates = {};   // tokens per second, by round
  std::vector<double> ratios = {};  // to the kind without adapters, by round

  int tokens() const { return streams * rows; }
  bool same_work(const Kind& other) const {
    return streams == other.streams && rows == other.rows && context == other.context;
  }
};

class ForwardBench {
 public:
  explicit ForwardBench(const BenchForwardFlags& flags)
      : flags_(flags),
        backend_(make_backend({.name = "cpu", .threads = flags.model.threads})),
        model_(load_bench_model(flags.model, *backend_)),
        pool_(flags.model.threads) {
    plan_kinds();
    int rows = 0, sequences = 0, positions = 0, adapters = 0;
    for (const Kind& kind : kinds_) {
      rows = std::max(rows, kind.tokens());
      sequences = std::max(sequences, kind.streams);
      positions = std::max(positions, kind.context + kind.rows);
      adapters = std::max(adapters, kind.adapters);
    }
    forward_ = std::make_unique<ForwardPass>(*model_, *backend_, rows, positions);
    logits_.resize(static_cast<size_t>(sequences) * static_cast<size_t>(model_->config.vocab_size));
    fill_cache(sequences, positions);
    const DType dtype = lora_dtype();
    for (int i = 0; i < adapters; ++i)
      adapters_.push_back(make_random_adapter(model_->config, *backend_, flags.rank, dtype));
  }

  void run() {
    for (int round = 0; round < flags_.rounds; ++round) {
      bandwidths_.push_back(read_bandwidth(pool_, kProbeBytes));
      peaks_.push_back(measure_peaks(pool_));
      for (Kind& kind : kinds_) kind.rates.push_back(measure(kind));
      for (Kind& kind : kinds_) kind.ratios.push_back(kind.rates.back() / base_of(kind).rates.back());
    }
    report();
  }

 private:
  DType lora_dtype() const {
    if (flags_.lora_dtype == "int8") return DType::kI8;
    return flags_.lora_dtype == "float32" ? DType::kF32 : DType::kBf16;
  }

  void plan_kinds() {
    const std::vector<int> streams = parse_counts(flags_.streams, "--streams");
    std::vector<int> adapters = parse_counts(flags_.adapters, "--adapters");
    adapters.insert(adapters.begin(), 0);
    kinds_.push_back({1, flags_.prefill, 0, 0});
    kinds_.push_back({1, flags_.prefill, 0, 1});
    for (const int count : streams) {
      for (const int distinct : adapters) {
        if (distinct <= count) kinds_.push_back({count, 1, flags_.context, distinct});
      }
    }
  }

  const Kind& base_of(const Kind& kind) const {
    return *std::ranges::find_if(kinds_, [&](const Kind& k) { return k.adapters == 0 && k.same_work(kind); });
  }

  /// Random keys and values everywhere: pages that were never written would be read from no memory at all.
  void fill_cache(int sequences, int positions) {
    const ModelConfig& config = model_->config;
    pages_each_ = (positions + kKvPageSize - 1) / kKvPageSize;
    cache_ = backend_->make_kv_cache(
        {config.num_layers, sequences * pages_each_, config.num_kv_heads, config.head_dim, DType::kBf16});
    page_ids_.resize(static_cast<size_t>(sequences * pages_each_));
    std::iota(page_ids_.begin(), page_ids_.end(), 0);
    const int64_t rows = int64_t{pages_each_} * kKvPageSize, width = config.kv_size();
    std::vector<float> values(static_cast<size_t>(rows * width));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random_uniform(5, 6, i)) - 0.5f;
    const ConstMat filling(values.data(), rows, width);
    for (int s = 0; s < sequences; ++s) {
      const SequenceSpan span{0, static_cast<int>(rows), 0, pages_of(s)};
      for (int layer = 0; layer < config.num_layers; ++layer)
        backend_->kv_write(*cache_, layer, filling, filling, {&span, 1});
    }
  }

  std::span<const int32_t> pages_of(int sequence) const {
    return std::span(page_ids_).subspan(static_cast<size_t>(sequence * pages_each_),
                                        static_cast<size_t>(pages_each_));
  }

  Batch make_batch(const Kind& kind) const {
    Batch batch;
    for (int s = 0; s < kind.streams; ++s) {
      const int begin = batch.rows();
      for (int row = 0; row < kind.rows; ++row) {
        batch.token_ids.push_back((s * 131 + row * 17) % model_->config.vocab_size);
        batch.positions.push_back(kind.context + row);
      }
      batch.sequences.push_back({begin, kind.rows, kind.context, pages_of(s)});
      const Adapter* adapter = kind.adapters == 0
                                   ? nullptr
                                   : adapters_[static_cast<size_t>(s * kind.adapters / kind.streams)].get();
      if (batch.groups.empty() || batch.groups.back().adapter != adapter)
        batch.groups.push_back({begin, begin, adapter});
      batch.groups.back().row_end = batch.rows();
    }
    return batch;
  }

  /// Tokens per second of the median step.
  double measure(const Kind& kind) {
    const Batch batch = make_batch(kind);
    std::vector<int32_t> last_rows;
    for (const SequenceSpan& span : batch.sequences) last_rows.push_back(span.row_begin + span.row_count - 1);
    const Mat logits(logits_.data(), kind.streams, model_->config.vocab_size);
    std::vector<double> seconds;
    for (int step = 0; step <= flags_.steps; ++step) {
      const Clock::time_point start = Clock::now();
      forward_->run(batch, *cache_);
      forward_->logits(last_rows, logits);
      if (step > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    return kind.tokens() / median(seconds);
  }

  /// Calls fn(weight, whether it is a feed-forward's) for the linears of all layers.
  template <typename Fn>
  void for_each_linear(Fn fn) const {
    const std::vector<Site> all_sites = sites(model_->config);
    for (const Layer& layer : model_->layers) {
      for (const Site site : all_sites) fn(*layer.at(site).weight, site >= Site::kGateUp);
    }
  }

  /// Bytes of weights that a step without adapters reads; of experts those that some token is expected to
  /// use.
  double step_bytes(double tokens) const {
    const double used = 1.0 - std::pow(1.0 - model_->config.experts.share(), tokens);
    auto bytes = static_cast<double>(model_->output_embedding().bytes());
    for_each_linear([&](const Weight& weight, bool feeds_forward) {
      bytes += static_cast<double>(weight.bytes()) * (feeds_forward ? used : 1.0);
    });
    return bytes;
  }

  /// Multiply-adds of the linears of a token; lm_head counts for the last one of a sequence alone.
  double linear_flops(const Kind& kind) const {
    double products = 0;
    for_each_linear([&](const Weight& weight, bool feeds_forward) {
      products += static_cast<double>(weight.rows() * weight.cols()) *
                  (feeds_forward ? model_->config.experts.share() : 1.0);
    });
    const Weight& head = model_->output_embedding();
    return 2 * (products * kind.tokens() + static_cast<double>(head.rows() * head.cols()) * kind.streams);
  }

  double peak() const {
    std::vector<double> values;
    for (const Peaks& peaks : peaks_) values.push_back(peak_of(bench_model_format(flags_.model), peaks));
    return median(values);
  }

  /// A step cannot be faster than its weights are read, nor than its products are computed.
  std::string limit_of(const Kind& kind) const {
    const double seconds = kind.tokens() / median(kind.rates);
    const double reading = step_bytes(kind.tokens()) * 1e-9 / median(bandwidths_);
    const double computing = linear_flops(kind) * 1e-9 / peak();
    return reading > computing ? fmt::format("{:3.0f} % of read bandwidth", 100 * reading / seconds)
                               : fmt::format("{:3.0f} % of peak", 100 * computing / seconds);
  }

  void report() const {
    const auto [slowest, fastest] = std::ranges::minmax(bandwidths_);
    fmt::print("{}, {} weights, adapters of rank {} in {}; medians of {} rounds\n", backend_->description(),
               flags_.model.dtype, flags_.rank, flags_.lora_dtype, flags_.rounds);
    fmt::print(
        "read bandwidth {:.1f} GB/s ({:.1f}-{:.1f}), peak {:.0f} G/s; a token reads {:.0f} MB of weights\n\n",
        median(bandwidths_), slowest, fastest, peak(), step_bytes(1) * 1e-6);
    fmt::print("{:16} {:>9} {:>9} {:>10}   {:24} {}\n", "step", "adapters", "tok/s", "ms", "limit",
               "ratio to none (spread)");
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Kind& kind : kinds_) {
      print_row(kind);
      rows.push_back({{"rows", kind.rows},
                      {"streams", kind.streams},
                      {"adapters", kind.adapters},
                      {"tokens_per_second", median(kind.rates)},
                      {"ratio", median(kind.ratios)}});
    }
    if (flags_.json.empty()) return;
    const nlohmann::ordered_json result = {
        {"read_gb_per_second", median(bandwidths_)}, {"peak_g_per_second", peak()}, {"steps", rows}};
    write_file_atomic(flags_.json, result.dump(2) + "\n");
  }

  void print_row(const Kind& kind) const {
    const std::string name =
        kind.rows > 1 ? fmt::format("prefill {}", kind.rows) : fmt::format("decode {} streams", kind.streams);
    const auto [least, most] = std::ranges::minmax(kind.ratios);
    fmt::print(
        "{:16} {:9} {:9.1f} {:10.2f}   {:24} {}\n", name, kind.adapters, median(kind.rates),
        1e3 * kind.tokens() / median(kind.rates), kind.adapters == 0 ? limit_of(kind) : "",
        kind.adapters == 0 ? "" : fmt::format("{:.2f} ({:.2f}-{:.2f})", median(kind.ratios), least, most));
  }

  const BenchForwardFlags& flags_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  ThreadPool pool_;  // of the probes
  std::vector<Kind> kinds_;
  std::unique_ptr<ForwardPass> forward_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> page_ids_;
  int pages_each_ = 0;
  std::vector<float> logits_;
  std::vector<std::unique_ptr<Adapter>> adapters_;
  std::vector<double> bandwidths_;
  std::vector<Peaks> peaks_;
};

}  // namespace

int run_bench_forward(const Arguments& arguments) {
  BenchForwardFlags values;
  FlagSet flags("bench forward",
                "Measures the forward pass of a model on this machine, with and without adapters.");
  add_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  ForwardBench(values).run();
  return 0;
}

}  // namespace polylora
