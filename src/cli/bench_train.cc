// polylora bench train: tokens per second of LoRA training, beside what the machine can do at best.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "base/machine.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "cli/console.h"
#include "cli/memory.h"
#include "load/load_metrics.h"
#include "tune/train/forward_adapter.h"
#include "tune/train/memory_plan.h"
#include "tune/train/objective.h"
#include "tune/train/optimizer.h"
#include "tune/train/training_cost.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchTrainFlags {
  BenchModelFlags model;
  int rank = 16;
  int sequence = 512;
  int sequences = 1;
  int steps = 8;
  double labelled = 1.0;
  bool checkpointing = true;
  std::string json;
};

void add_flags(FlagSet& flags, BenchTrainFlags& values) {
  add_bench_model_flags(flags, values.model);
  flags.integer("--rank", values.rank, 1, "LoRA rank, on all linear modules");
  flags.integer("--sequence", values.sequence, 2, "tokens of a sequence");
  flags.integer("--sequences", values.sequences, 1, "sequences of an update");
  flags.integer("--steps", values.steps, 2, "updates that are timed; one more before warms up");
  flags.number("--labelled", values.labelled,
               "share of tokens that a loss is taken at, the last of each sequence");
  flags.toggle("--gradient-checkpointing", values.checkpointing,
               "compute again what the default memory budget cannot keep");
  flags.text("--json", values.json, "FILE", "write the result there too");
}

std::vector<Example> make_examples(const BenchTrainFlags& flags, int vocab_size) {
  const int labelled = std::max(1, static_cast<int>(flags.labelled * flags.sequence));
  std::vector<Example> examples(static_cast<size_t>(flags.sequences));
  uint64_t counter = 0;
  for (Example& example : examples) {
    for (int t = 0; t < flags.sequence; ++t) {
      example.input_ids.push_back(static_cast<int32_t>(random_uniform(3, 4, counter++) * vocab_size));
      example.labels.push_back(t < flags.sequence - labelled ? kIgnoreIndex : example.input_ids.back());
    }
  }
  return examples;
}

double peak_resident_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1e3;
}

class TrainBench {
 public:
  explicit TrainBench(const BenchTrainFlags& flags)
      : flags_(flags),
        backend_(make_training_backend({.name = "cpu", .threads = flags.model.threads})),
        model_(load_bench_model(flags.model, *backend_)) {
    examples_ = make_examples(flags, model_->config.vocab_size);
    objective_ = make_next_token_objective(examples_, kMicroBatchRows);
    LoraSettings settings;
    settings.rank = flags.rank;
    settings.alpha = 2.0 * flags.rank;
    trained_ = std::make_unique<TrainableAdapter>(model_->config, settings);
    trained_->initialize(1);
    plan();
  }

  void run() {
    TrainingPass pass(*model_, *backend_, trained_.get(), options_);
    ForwardAdapter forward(*model_, *backend_, *trained_, options_.dtype);
    Optimizer optimizer(*backend_, *trained_, OptimizerSettings());
    std::vector<size_t> all(examples_.size());
    std::iota(all.begin(), all.end(), size_t{0});
    forward.refresh();
    std::vector<double> seconds, peaks;
    for (int step = 0; step <= flags_.steps; ++step) {
      peaks.push_back(peak());
      const Clock::time_point start = Clock::now();
      optimizer.zero_gradients();
      objective_->accumulate(pass, forward.adapter(), all, static_cast<uint64_t>(step));
      optimizer.update(step + 1, 1e-4);
      forward.refresh();
      if (step > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    report(seconds, peaks);
  }

 private:
  void plan() {
    TrainConfig config;
    config.disable_gradient_checkpointing = !flags_.checkpointing;
    config.cutoff_len = flags_.sequence;
    options_.max_rows = std::max(kMicroBatchRows, flags_.sequence);
    options_.max_positions = flags_.sequence;
    options_.dtype = flags_.model.dtype == "float32" ? DType::kF32 : DType::kBf16;
    plan_ = plan_memory(config, model_->config, bench_model_policy(flags_.model), trained_->values().size(),
                        options_, available_memory() + model_->bytes());
    options_.activation_bytes = plan_.activations;
  }

  double peak() {
    ThreadPool pool(flags_.model.threads);
    const Peaks peaks = measure_peaks(pool);
    return flags_.model.dtype == "float32" ? peaks.f32 : peaks.bf16;
  }

  double flops_per_update() const {
    std::vector<const Example*> pointers;
    for (const Example& example : examples_) pointers.push_back(&example);
    const std::vector<uint64_t> keys(examples_.size());
    return training_flops(model_->config, *trained_, make_micro_batch(pointers, keys));
  }

  void report(const std::vector<double>& seconds, const std::vector<double>& peaks) const {
    const auto tokens = static_cast<double>(flags_.sequence) * flags_.sequences;
    const double typical = median(seconds), best = *std::min_element(seconds.begin(), seconds.end());
    const double gflops = flops_per_update() * 1e-9, peak_now = median(peaks);
    fmt::print("{}, base {}, rank {}, {} sequences of {} tokens an update, {:.0f} % labelled\n",
               backend_->description(), flags_.model.dtype, flags_.rank, flags_.sequences, flags_.sequence,
               100 * flags_.labelled);
    fmt::print("tokens/s           {:8.1f}   (best update {:.1f})\n", tokens / typical, tokens / best);
    fmt::print("GFLOP/s            {:8.1f}   {:.3f} GFLOP a token, recomputation not counted\n",
               gflops / typical, gflops / tokens);
    fmt::print("of measured peak   {:8.1f} % of {:.0f} GFLOP/s ({}, median of {} probes between updates)\n",
               100 * gflops / typical / peak_now, peak_now, flags_.model.dtype == "float32" ? "f32" : "bf16",
               peaks.size());
    fmt::print("layers kept        {:8} of {}\n", plan_.kept_layers, model_->config.num_layers);
    fmt::print("memory             {}; peak resident {:.0f} MB\n", plan_.text(), peak_resident_mb());
    if (flags_.json.empty()) return;
    const nlohmann::ordered_json result = {{"tokens_per_second", tokens / typical},
                                           {"best_tokens_per_second", tokens / best},
                                           {"gflops", gflops / typical},
                                           {"peak_gflops", peak_now},
                                           {"kept_layers", plan_.kept_layers},
                                           {"weights_bytes", plan_.weights},
                                           {"adapter_bytes", plan_.adapter},
                                           {"activation_bytes", plan_.activations},
                                           {"working_bytes", plan_.working},
                                           {"peak_resident_mb", peak_resident_mb()}};
    write_file_atomic(flags_.json, result.dump(2) + "\n");
  }

  const BenchTrainFlags& flags_;
  std::unique_ptr<TrainingBackend> backend_;
  std::unique_ptr<Model> model_;
  std::vector<Example> examples_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<TrainableAdapter> trained_;
  TrainingPassOptions options_;
  MemoryPlan plan_;
};

}  // namespace

int run_bench_train(const Arguments& arguments) {
  BenchTrainFlags values;
  FlagSet flags("bench train", "Measures LoRA training of a model on this machine.");
  add_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  if (!(values.labelled > 0 && values.labelled <= 1))
    fail(ErrorCode::kInvalidArgument, "bench train: --labelled {} must be above 0 and at most 1",
         values.labelled);
  TrainBench(values).run();
  return 0;
}

}  // namespace polylora
