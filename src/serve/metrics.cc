#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "serve/serve_context.h"
#include "serve/snapshot_metrics.h"

namespace polylora {

namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

enum HistogramId {
  kPromptTokens,
  kGenerationTokens,
  kMaxGenerationTokens,
  kParamsN,
  kParamsMaxTokens,
  kTimeToFirstToken,
  kInterTokenLatency,
  kTimePerOutputToken,
  kEndToEndLatency,
  kQueueTime,
  kInferenceTime,
  kPrefillTime,
  kDecodeTime,
  kPreemptions,
  kPrefillComputedTokens,
  kHistogramCount
};

struct HistogramSpec {
  const char* name;
  const char* help;
  Buckets buckets;
};

const std::array<HistogramSpec, kHistogramCount>& histogram_specs() {
  static const Buckets tokens{1,   2,    5,    10,   20,    50,    100,   200,
                              500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
  static const Buckets counts{1, 2, 5, 10, 20};
  static const Buckets first{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                             1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  static const Buckets gaps{.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                            .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  static const Buckets latency{.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                               30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  static const std::array<HistogramSpec, kHistogramCount> specs{{
      {"vllm:request_prompt_tokens", "Number of prefill tokens processed.", tokens},
      {"vllm:request_generation_tokens", "Number of generation tokens processed.", tokens},
      {"vllm:request_max_num_generation_tokens",
       "Histogram of maximum number of requested generation tokens.", tokens},
      {"vllm:request_params_n", "Histogram of the n request parameter.", counts},
      {"vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", tokens},
      {"vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", first},
      {"vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", gaps},
      {"vllm:request_time_per_output_token_seconds",
       "Histogram of time_per_output_token_seconds per request.", gaps},
      {"vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", latency},
      {"vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", latency},
      {"vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.",
       latency},
      {"vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", latency},
      {"vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", latency},
      {"vllm:request_num_preemptions",
       "Histogram of the number of times a request was preempted.",
       {1, 2, 3, 4, 5, 10, 20}},
      {"vllm:request_prefill_kv_computed_tokens",
       "Histogram of new KV tokens computed during prefill (excluding cached tokens).", tokens},
  }};
  return specs;
}

constexpr std::array kReasons = {"stop", "length", "abort", "error"};  // by FinishReason

}  // namespace

struct Metrics::State {
  /// All series of one adapter.
  struct Series {
    std::array<prometheus::Histogram*, kHistogramCount> histograms{};
    std::array<prometheus::Counter*, kReasons.size()> success{};
  };

  State(const std::vector<ServedBase>& the_bases, const AdapterRegistry& the_registry)
      : bases(the_bases), registry(the_registry) {
    for (size_t i = 0; i < kHistogramCount; ++i) {
      const HistogramSpec& spec = histogram_specs()[i];
      histograms[i] = &prometheus::BuildHistogram().Name(spec.name).Help(spec.help).Register(requests);
    }
    success = &prometheus::BuildCounter()
                   .Name("vllm:request_success_total")
                   .Help("Count of successfully processed requests.")
                   .Register(requests);
    auto& rejected = prometheus::BuildCounter()
                         .Name("vllm:admission_rejections_total")
                         .Help("Number of admission attempts rejected by a queue limit, by reason.")
                         .Register(requests);
    for (const ServedBase& base : bases) {
      rejections[base.name()] =
          &rejected.Add({{"model_name", base.name()}, {"reason", "max_num_queued_reqs"}});
      make_series("", base.name());
    }
  }

  Series& make_series(const std::string& adapter, const std::string& model_name) {
    const prometheus::Labels labels{{"model_name", model_name}, {"engine", "0"}, {"adapter", adapter}};
    Series made;
    for (size_t i = 0; i < kHistogramCount; ++i)
      made.histograms[i] = &histograms[i]->Add(labels, histogram_specs()[i].buckets);
    for (size_t i = 0; i < kReasons.size(); ++i) {
      prometheus::Labels with_reason = labels;
      with_reason.emplace("finished_reason", kReasons[i]);
      made.success[i] = &success->Add(with_reason);
    }
    return series[{adapter, model_name}] = made;
  }

  Series& series_of(const std::string& adapter, const std::string& model_name) {
    const bool loaded = adapter.empty() || adapter == kStackLabel || registry.lease(adapter) != nullptr;
    const std::string& label = loaded ? adapter : kUnloaded;
    const auto found = series.find({label, model_name});
    return found != series.end() ? found->second : make_series(label, model_name);
  }

  /// Of every base model that had an adapter of this name.
  void drop_series(const std::string& adapter) {
    auto at = series.lower_bound({adapter, ""});
    while (at != series.end() && at->first.first == adapter) {
      for (size_t i = 0; i < kHistogramCount; ++i) histograms[i]->Remove(at->second.histograms[i]);
      for (prometheus::Counter* counter : at->second.success) success->Remove(counter);
      at = series.erase(at);
    }
  }

  const std::string kUnloaded = "(unloaded)";
  const std::vector<ServedBase>& bases;
  const AdapterRegistry& registry;
  prometheus::Registry requests;
  std::array<prometheus::Family<prometheus::Histogram>*, kHistogramCount> histograms{};
  prometheus::Family<prometheus::Counter>* success = nullptr;
  std::map<std::string, prometheus::Counter*> rejections;  // by model name
  std::mutex mutex;  // guards series, and keeps them alive while they are written to
  std::map<std::pair<std::string, std::string>, Series> series;  // by adapter and model name
};

Metrics::Metrics(const std::vector<ServedBase>& bases, const AdapterRegistry& registry)
    : state_(std::make_unique<State>(bases, registry)) {}

Metrics::~Metrics() = default;

void Metrics::finished(const FinishedRequest& request) {
  const std::lock_guard lock(state_->mutex);
  State::Series& series = state_->series_of(request.adapter, request.model_name);
  const auto observe = [&](HistogramId id, double value) { series.histograms[id]->Observe(value); };
  series.success[static_cast<size_t>(request.reason)]->Increment();
  observe(kPromptTokens, request.prompt_tokens);
  observe(kGenerationTokens, request.completion_tokens);
  observe(kMaxGenerationTokens, request.completion_tokens);
  observe(kParamsN, request.n);
  observe(kParamsMaxTokens, request.max_tokens);
  observe(kPreemptions, request.preemptions);
  observe(kPrefillComputedTokens, request.prompt_tokens - request.cached_tokens);
  const RequestTimes& times = request.times;
  if (times.finished >= 0) observe(kEndToEndLatency, times.finished);
  if (times.queued >= 0) {
    observe(kQueueTime, times.queued);
    observe(kInferenceTime, times.finished - times.queued);
  }
  if (times.first_token >= 0) {
    const double decode = times.finished - times.first_token;
    observe(kTimeToFirstToken, times.first_token);
    observe(kPrefillTime, times.first_token - times.queued);
    observe(kDecodeTime, decode);
    if (request.completion_tokens > 1) observe(kTimePerOutputToken, decode / (request.completion_tokens - 1));
  }
  for (const double gap : request.token_gaps) observe(kInterTokenLatency, gap);
}

void Metrics::rejected(const std::string& model_name) {
  state_->rejections.at(model_name)->Increment();
}

void Metrics::adapter_unloaded(const std::string& adapter) {
  const std::lock_guard lock(state_->mutex);
  state_->drop_series(adapter);
}

std::string Metrics::render() const {
  std::vector<EngineSnapshot> engines;
  for (const ServedBase& base : state_->bases)
    engines.push_back({base.name(), base.engine.stats(), base.engine.options()});
  std::vector<prometheus::MetricFamily> families = snapshot_metrics(engines, state_->registry.list());
  {
    // Collecting while a series is dropped would read freed memory.
    const std::lock_guard lock(state_->mutex);
    std::vector<prometheus::MetricFamily> requests = state_->requests.Collect();
    families.insert(families.end(), std::make_move_iterator(requests.begin()),
                    std::make_move_iterator(requests.end()));
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return std::move(text).str();
}

}  // namespace polylora
