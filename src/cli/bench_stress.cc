// polylora bench stress: what many adapters cost against one merged model.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "cli/bench.h"
#include "cli/bench_stress_flags.h"
#include "cli/console.h"
#include "cli/server_process.h"
#include "cli/signals.h"
#include "cli/stress_adapters.h"
#include "cli/stress_requests.h"
#include "cli/work_folder.h"
#include "io/checkpoint.h"
#include "load/stress_result.h"
#include "tune/merge/export.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown processor";
}

bool names_any(const std::vector<std::string>& arguments, std::initializer_list<std::string_view> flags) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    const std::string_view name = std::string_view(argument).substr(0, argument.find('='));
    return std::find(flags.begin(), flags.end(), name) != flags.end();
  });
}

/// One of the two servers: the process and where it listens.
class StressServer {
 public:
  StressServer(const std::vector<std::string>& arguments, const fs::path& log, bool runtime_lora,
               const std::stop_token& stop)
      : process_(arguments, log, runtime_lora), address_(process_.wait_until_listening(stop), false) {}

  StressSide run(const LoadPlan& plan, const std::stop_token& stop) const {
    StressSide side;
    side.load = run_load(address_, plan, {}, stop);
    side.resident_bytes = process_.resident_bytes();
    return side;
  }

 private:
  ServerProcess process_;
  HttpServerAddress address_;
};

class StressBench {
 public:
  StressBench(const BenchStressFlags& flags, std::stop_token stop)
      : flags_(flags),
        stop_(std::move(stop)),
        limits_(flags.limits()),
        checkpoint_(Checkpoint::open(flags.model)),
        work_(flags.work_dir) {
    const std::vector<LoraModule> given = parse_lora_modules(flags.lora_modules);
    cells_ = stress_cells(flags.grid(static_cast<int>(given.size())));
    check_limits("--min-ratio", limits_.min_ratio, cells_);
    check_limits("--max-ttft-p99-ms", limits_.max_ttft_p99_ms, cells_);
    check_formats();
    adapters_.emplace(given, SyntheticAdapters(work_.path(), checkpoint_->config(), flags.model));
  }

  int run() {
    adapters_->prepare(cells_);
    const std::string merged = flags_.merged.empty() ? export_merged() : flags_.merged;
    start_servers(merged);
    StressReport report;
    report.facts = facts(merged);
    for (size_t i = 0; i < cells_.size(); ++i) {
      report.results.push_back(measure(cells_[i], i));
      const CellResult& result = report.results.back();
      print_line(fmt::format("{:>4}/{}  {:<32} ratio {:.3f}  ({:.3f}-{:.3f})", i + 1, cells_.size(),
                             result.cell.name(), result.ratio.median, result.ratio.smallest,
                             result.ratio.largest));
    }
    report.violations = stress_violations(report.results, limits_);
    return write(report);
  }

 private:
  /// The merged model is exported in bf16, which is no match for the blocks of a quantised GGUF file.
  void check_formats() const {
    const bool quantised = checkpoint_->format_name().find(" Q") != std::string::npos;
    if (!quantised || !flags_.merged.empty() ||
        names_any(flags_.serve_arguments, {"--dtype", "--quantization"}))
      return;
    fail(ErrorCode::kInvalidArgument,
         "{} is {}, but the merged model would be bfloat16: give both servers the same with `-- --dtype "
         "bfloat16` or "
         "`-- --quantization q4`, or name a merged model of the same format with --merged (for speed, the "
         "base itself "
         "is one)",
         flags_.model, checkpoint_->format_name());
  }

  std::string export_merged() const {
    ExportConfig config;
    config.model_name_or_path = flags_.model;
    config.adapter_name_or_path = {adapters_->first().path.string()};
    config.export_dir = work_.path() / "merged";
    std::atomic<bool> cancelled = false;
    const std::stop_callback cancel(stop_, [&cancelled] { cancelled = true; });
    ProgressBar bar;
    export_model(config, bar.callback(), &cancelled);
    return config.export_dir.string();
  }

  void start_servers(const std::string& merged) {
    const auto arguments = [this](const std::string& model) {
      std::vector<std::string> result = {model};
      result.insert(result.end(), flags_.serve_arguments.begin(), flags_.serve_arguments.end());
      result.insert(result.end(), {"--served-model-name", kStressBaseName, "--disable-uvicorn-access-log"});
      return result;
    };
    print_line(fmt::format("starting two servers; their logs are in {}", work_.path().string()));
    merged_.emplace(arguments(merged), work_.path() / "merged.log", false, stop_);

    std::vector<std::string> with_adapters = arguments(flags_.model);
    with_adapters.insert(with_adapters.end(), {"--enable-lora", "--lora-modules"});
    for (std::string& item : adapters_->serve_items()) with_adapters.push_back(std::move(item));
    if (!flags_.lora_memory.empty())
      with_adapters.insert(with_adapters.end(), {"--lora-memory", flags_.lora_memory});
    multi_.emplace(with_adapters, work_.path() / "adapters.log", true, stop_);
  }

  CellResult measure(const StressCell& cell, size_t index) {
    const StressRequests requests(flags_, checkpoint_->config().vocab_size, adapters_->of(cell), cell, index);
    merged_->run(requests.warm_up().merged, stop_);
    multi_->run(requests.warm_up().adapters, stop_);
    std::vector<StressRound> rounds;
    for (int r = 0; r < flags_.rounds; ++r) {
      const StressPlans plans = requests.round(r);
      StressRound round;
      const auto run_merged = [&] { round.merged = merged_->run(plans.merged, stop_); };
      if (r % 2 == 0) run_merged();  // who goes first changes, so that a drift of the machine cancels out
      round.adapters = multi_->run(plans.adapters, stop_);
      if (r % 2 == 1) run_merged();
      rounds.push_back(std::move(round));
    }
    return summarize_cell(cell, rounds);
  }

  std::vector<std::pair<std::string, std::string>> facts(const std::string& merged) const {
    const ModelConfig& config = checkpoint_->config();
    return {
        {"base", fmt::format("{} ({}, {} layers of {})", flags_.model, checkpoint_->format_name(),
                             config.num_layers, config.hidden_size)},
        {"merged", merged},
        {"adapters",
         flags_.lora_modules.empty() ? "random" : fmt::format("{}", fmt::join(flags_.lora_modules, " "))},
        {"load", fmt::format("{} input and {} output tokens, {} requests a round, {} rounds",
                             flags_.input_len, flags_.output_len,
                             flags_.num_prompts > 0 ? std::to_string(flags_.num_prompts) : "2 × concurrency",
                             flags_.rounds)},
        {"serve flags", fmt::format("{}", fmt::join(flags_.serve_arguments, " "))},
        {"machine", fmt::format("{}, {} threads", processor_name(), std::thread::hardware_concurrency())},
        {"program", "polylora " POLYLORA_VERSION}};
  }

  int write(const StressReport& report) const {
    fmt::print("{}", stress_table(report));
    if (!flags_.json.empty()) write_file_atomic(flags_.json, stress_json(report).dump(2) + "\n");
    if (!flags_.html.empty()) write_file_atomic(flags_.html, stress_html(report));
    for (const std::string& line : report.violations) print_line("polylora: not met: " + line);
    return report.violations.empty() ? 0 : 1;
  }

  const BenchStressFlags& flags_;
  std::stop_token stop_;
  StressLimits limits_;
  std::unique_ptr<Checkpoint> checkpoint_;
  WorkFolder work_;  // outlives the servers
  std::vector<StressCell> cells_;
  std::optional<StressAdapters> adapters_;
  std::optional<StressServer> merged_, multi_;
};

}  // namespace

int run_bench_stress(const Arguments& arguments) {
  BenchStressFlags values;
  FlagSet flags(
      "bench stress",
      "Measures what many adapters cost against one merged model: the same requests to two servers in turn. "
      "Flags after -- go to both servers.");
  add_bench_stress_flags(flags, values);
  const auto own_end = std::find(arguments.begin(), arguments.end(), "--");
  if (own_end != arguments.end()) values.serve_arguments.assign(own_end + 1, arguments.end());
  if (!flags.parse({arguments.begin(), own_end})) return 0;
  if (values.model.empty())
    fail(ErrorCode::kInvalidArgument, "which MODEL? Name a Hugging Face folder or a .gguf file");
  SignalWatcher signals;
  std::stop_source stop;
  const SignalWatcher::Scope scope(signals, [&stop] {
    if (!stop.request_stop()) SignalWatcher::quit();
  });
  return StressBench(values, stop.get_token()).run();
}

}  // namespace polylora
