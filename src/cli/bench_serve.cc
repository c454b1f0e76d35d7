// polylora bench serve: load on a running OpenAI-compatible server, reported as `vllm bench serve` does.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stop_token>
#include <thread>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_serve_file.h"
#include "cli/bench_serve_flags.h"
#include "cli/console.h"
#include "cli/load.h"
#include "cli/signals.h"
#include "load/load_report.h"
#include "load/random_stream.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::seconds kSilence{600};
constexpr std::chrono::seconds kRetryPause{1};
constexpr uint64_t kAdapterStream = 0x6c6f7261;
constexpr size_t kShownErrors = 10;

/// Every running request has a connection; the usual soft limit is a thousand files.
void allow_many_connections() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

class ServeBench {
 public:
  explicit ServeBench(BenchServeFlags& flags)
      : flags_(flags), address_(flags.url(), flags.insecure), headers_(flags.headers()) {
    if (!flags.tokenizer.empty()) tokenizer_ = open_tokenizer(flags.tokenizer);
    flags.token_source.tokenizer = tokenizer_.get();
    if (tokenizer_ != nullptr) {
      flags.token_source.first_id = 0;
      flags.token_source.end_id = tokenizer_->vocab_size();
    }
  }

  void run(const std::stop_token& stop) {
    if (flags_.model.empty()) flags_.model = first_served_model();
    const std::vector<BenchPrompt> prompts = make_prompts();
    plan(prompts);
    if (flags_.ready_check_timeout_sec > 0) wait_until_ready(stop);
    if (flags_.num_warmups > 0) warm_up(stop);
    announce();
    const LoadResult result = run_measured(stop);
    report_failures(result);
    const LoadMetrics metrics =
        summarize_load(result.records, result.duration_s, flags_.percentiles(), flags_.goodput_bounds());
    const LoadReportOptions options = report_options(result);
    fmt::print("{}", load_report_text(metrics, result.duration_s, options));
    if (flags_.save_result || flags_.append_result)
      save_bench_serve_result(flags_, load_report_json(metrics, result, options, flags_.save_detailed));
    if (metrics.completed > 0) return;
    fail(ErrorCode::kUnavailable, "all {} requests failed, the first with: {}", metrics.failed,
         result.records.front().error);
  }

 private:
  std::string first_served_model() const {
    fmt::print("Model not specified, fetching first model from server...\n");
    const HttpAnswer answer = call_server(
        address_, {.method = "GET", .path = "/v1/models", .headers = headers_, .body = {}}, kSilence);
    const Json models = Json::parse(answer.body, nullptr, false);
    const Json::json_pointer first("/data/0/id");
    if (answer.status != 200 || !models.is_object() || !models.contains(first) || !models[first].is_string())
      fail(ErrorCode::kUnavailable, "{}/v1/models names no model (HTTP {}); say which with --model",
           address_.url().text(), answer.status);
    fmt::print("First model name: {0}, first model id: {0}\n", models[first].get<std::string>());
    return models[first];
  }

  std::vector<BenchPrompt> make_prompts() const {
    PromptFileOptions file;
    file.path = flags_.dataset_path;
    file.count = flags_.num_prompts;
    file.shuffle = !flags_.disable_shuffle;
    file.oversample = !flags_.no_oversample;
    file.seed = static_cast<uint64_t>(flags_.seed);
    if (flags_.dataset_name == "custom") {
      file.output_len = flags_.custom_output_len;
      return custom_prompts(file);
    }
    if (flags_.dataset_name == "sharegpt") {
      file.output_len = flags_.sharegpt_output_len;
      return sharegpt_prompts(file, tokenizer_.get());
    }
    if (flags_.dataset_name == "prefix_repetition")
      return prefix_repetition_prompts(flags_.prefix_repetition, flags_.token_source);
    return random_prompts(flags_.random, flags_.token_source);
  }

  /// Which model each request asks for.
  std::string model_of(size_t index, RandomStream& random) const {
    const auto& adapters = flags_.lora_modules;
    if (adapters.empty()) return base_name();
    const bool in_turn = flags_.lora_assignment == "round-robin";
    return adapters[in_turn ? index % adapters.size() : random.below(adapters.size())];
  }

  const std::string& base_name() const {
    return flags_.served_model_name.empty() ? flags_.model : flags_.served_model_name;
  }

  void plan(const std::vector<BenchPrompt>& prompts) {
    plan_.path = flags_.endpoint;
    plan_.headers = headers_;
    plan_.max_concurrency = flags_.max_concurrency;
    plan_.silence = kSilence;
    plan_.keep_text = flags_.save_detailed;
    sends_ids_ = std::holds_alternative<std::vector<int32_t>>(prompts.front().content);
    const std::vector<double> arrivals = arrival_times(flags_.arrivals, prompts.size());
    RandomStream random(static_cast<uint64_t>(flags_.seed), kAdapterStream);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::string model = model_of(i, random);
      PlannedRequest request;
      request.body = completion_body(flags_.body, model, prompts[i]);
      request.model = model;
      request.prompt_tokens = prompts[i].tokens;
      request.arrival_s = arrivals[i];
      if (!flags_.request_id_prefix.empty()) request.id = flags_.request_id_prefix + std::to_string(i);
      plan_.requests.push_back(std::move(request));
    }
  }

  /// The first request of the run, `count` times at once; its model is the base's, as in the peer.
  LoadPlan first_request(int count) const {
    LoadPlan plan = plan_;
    PlannedRequest request = plan_.requests.front();
    request.arrival_s = 0;
    plan.requests.assign(static_cast<size_t>(count), request);
    return plan;
  }

  void wait_until_ready(const std::stop_token& stop) const {
    fmt::print("Starting initial single prompt test run...\n");
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + std::chrono::seconds(flags_.ready_check_timeout_sec);
    for (;;) {
      const LoadResult result = run_load(address_, first_request(1), {}, stop);
      if (result.records.front().success) break;
      if (Clock::now() + kRetryPause > end)
        fail(ErrorCode::kUnavailable, "the server was not ready within {} s: {}",
             flags_.ready_check_timeout_sec, result.records.front().error);
      std::this_thread::sleep_for(kRetryPause);
    }
    fmt::print("Initial test run completed.\n");
  }

  void warm_up(const std::stop_token& stop) const {
    fmt::print("Warming up with {} requests...\n", flags_.num_warmups);
    run_load(address_, first_request(flags_.num_warmups), {}, stop);
    fmt::print("Warmup run completed.\n");
  }

  void announce() const {
    fmt::print("Starting main benchmark run...\n");
    const ArrivalOptions& arrivals = flags_.arrivals;
    if (arrivals.ramp_up != RampUp::kNone) {
      fmt::print(
          "Traffic ramp-up strategy: {}.\nWill increase RPS from {} to {} RPS over the duration of the "
          "benchmark.\n",
          ramp_up_name(arrivals.ramp_up), *flags_.ramp_up_start_rps, *flags_.ramp_up_end_rps);
    } else {
      fmt::print("Traffic request rate: {}\n", python_number(arrivals.request_rate));
    }
    fmt::print("Burstiness factor: {} ({})\n", python_number(arrivals.burstiness),
               arrivals.burstiness == 1 ? "Poisson process" : "Gamma distribution");
    fmt::print("Maximum request concurrency: {}\n",
               flags_.max_concurrency > 0 ? std::to_string(flags_.max_concurrency) : "None");
    std::fflush(stdout);
  }

  LoadResult run_measured(const std::stop_token& stop) {
    if (flags_.probe_request_rate > 0) add_probes();
    ProgressBar bar;
    const ProgressFn draw = flags_.disable_tqdm ? ProgressFn() : bar.callback();
    const auto total = static_cast<double>(plan_.requests.size());
    return run_load(
        address_, plan_,
        [&](size_t finished) {
          if (draw) draw(fmt::format("{} requests", finished), static_cast<double>(finished) / total);
        },
        stop);
  }

  /// A single token where prompts are token ids: such servers may have no tokenizer.
  void add_probes() {
    BenchPrompt probe;
    probe.content = "Hi";
    if (sends_ids_) probe.content = std::vector<int32_t>{flags_.token_source.first_id};
    probe.max_tokens = 1;
    BodyOptions options = flags_.body;
    options.extra["stream"] = false;
    Json body = Json::parse(completion_body(options, base_name(), probe));
    body.erase("stream_options");
    HttpCall& call = plan_.side.calls.emplace_back();
    call.path = flags_.endpoint;
    call.headers = headers_;
    call.body = body.dump();
    plan_.side.interval_s = 1 / flags_.probe_request_rate;
  }

  static void report_failures(const LoadResult& result) {
    std::vector<std::string> errors, probe_errors;
    for (const RequestRecord& record : result.records) {
      if (!record.success) errors.push_back(record.error);
    }
    for (const SideRecord& record : result.side) {
      if (!record.error.empty()) probe_errors.push_back(record.error);
    }
    show_errors("Failed requests", errors);
    show_errors("Failed probe requests", probe_errors);
  }

  static void show_errors(std::string_view what, const std::vector<std::string>& errors) {
    if (errors.empty()) return;
    print_line(fmt::format("{} during benchmark run detected (capping to {}):", what, kShownErrors));
    for (size_t i = 0; i < std::min(errors.size(), kShownErrors); ++i)
      print_line(fmt::format("Error {}: {}", i, errors[i]));
  }

  LoadReportOptions report_options(const LoadResult& result) const {
    LoadReportOptions options;
    if (flags_.max_concurrency > 0) options.max_concurrency = flags_.max_concurrency;
    options.request_rate = flags_.arrivals.request_rate;
    options.percentile_metrics = flags_.latency_metrics();
    options.goodput = !flags_.goodput.empty();
    if (flags_.probe_request_rate > 0) options.probes = summarize_probes(result.side);
    return options;
  }

  BenchServeFlags& flags_;
  HttpServerAddress address_;
  HeaderList headers_;
  std::unique_ptr<Tokenizer> tokenizer_;
  LoadPlan plan_;
  bool sends_ids_ = false;
};

}  // namespace

int run_bench_serve(const Arguments& arguments) {
  BenchServeFlags values;
  FlagSet flags("bench serve", "Measures a running OpenAI-compatible server; flags and results are vLLM's.");
  add_bench_serve_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  values.resolve();
  allow_many_connections();
  SignalWatcher signals;
  std::stop_source stop;
  const SignalWatcher::Scope scope(signals, [&stop] { stop.request_stop(); });
  ServeBench(values).run(stop.get_token());
  return 0;
}

}  // namespace polylora
