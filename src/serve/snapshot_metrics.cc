#include "serve/snapshot_metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <iterator>

namespace polylora {

namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;
using prometheus::MetricType;

/// Builds families whose every series carries the labels of a model.
class Snapshot {
 public:
  /// The model of what is added from here on.
  void set_model(const std::string& name) { common_ = {{"engine", "0"}, {"model_name", name}}; }

  void gauge(const char* name, const char* help, double value, const Labels& labels = {}) {
    add(MetricType::Gauge, name, help, labels, value);
  }
  void counter(const char* name, const char* help, uint64_t value, const Labels& labels = {}) {
    add(MetricType::Counter, name, help, labels, static_cast<double>(value));
  }
  /// Without the model's labels, as vLLM has it for a few.
  void bare_gauge(const char* name, const char* help, double value, Labels labels) {
    family(MetricType::Gauge, name, help).push_back(metric(MetricType::Gauge, std::move(labels), value));
  }

  std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

 private:
  void add(MetricType type, const char* name, const char* help, const Labels& labels, double value) {
    Labels all = common_;
    all.insert(all.end(), labels.begin(), labels.end());
    family(type, name, help).push_back(metric(type, std::move(all), value));
  }

  std::vector<prometheus::ClientMetric>& family(MetricType type, const char* name, const char* help) {
    const auto known = std::ranges::find(families_, name, &prometheus::MetricFamily::name);
    if (known != families_.end()) return known->metric;
    return families_.emplace_back(prometheus::MetricFamily{name, help, type, {}}).metric;
  }

  static prometheus::ClientMetric metric(MetricType type, Labels labels, double value) {
    prometheus::ClientMetric made;
    made.label = std::move(labels);
    (type == MetricType::Counter ? made.counter.value : made.gauge.value) = value;
    return made;
  }

  Labels common_;
  std::vector<prometheus::MetricFamily> families_;
};

void add_requests(Snapshot& out, const EngineStats& stats) {
  out.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", stats.running);
  out.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", stats.waiting);
  const char* by_reason =
      "Number of waiting requests by reason: 'capacity' = waiting for scheduling capacity; 'deferred' = "
      "waiting "
      "for its adapter. Sum of all reasons equals vllm:num_requests_waiting.";
  out.gauge("vllm:num_requests_waiting_by_reason", by_reason, stats.waiting - stats.waiting_for_adapter,
            {{"reason", "capacity"}});
  out.gauge("vllm:num_requests_waiting_by_reason", by_reason, stats.waiting_for_adapter,
            {{"reason", "deferred"}});
  out.counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.",
              stats.preemptions);
}

void add_tokens(Snapshot& out, const EngineStats& stats) {
  const uint64_t cached = stats.prefix_cache_hits;
  const uint64_t computed = stats.prompt_tokens > cached ? stats.prompt_tokens - cached : 0;
  out.counter("vllm:prefix_cache_queries_total",
              "Prefix cache queries, in terms of number of queried tokens.", stats.prefix_cache_queries);
  out.counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.",
              cached);
  out.counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", stats.prompt_tokens);
  out.counter("vllm:prompt_tokens_by_source_total", "Number of prompt tokens by source.", computed,
              {{"source", "local_compute"}});
  out.counter("vllm:prompt_tokens_by_source_total", "Number of prompt tokens by source.", cached,
              {{"source", "local_cache_hit"}});
  out.counter("vllm:prompt_tokens_cached_total", "Number of cached prompt tokens.", cached);
  out.counter("vllm:generation_tokens_total", "Number of generation tokens processed.",
              stats.generation_tokens);
  out.counter("polylora:engine_steps_total", "Number of engine steps.", stats.steps);
  out.gauge("polylora:engine_busy_seconds", "Time the engine spent computing steps.", stats.step_seconds);
}

void add_cache(Snapshot& out, const EngineStats& stats, const EngineOptions& options) {
  const char* usage = "KV-cache usage. 1 means 100 percent usage.";
  out.gauge("vllm:kv_cache_usage_perc", usage, stats.kv_cache_usage);
  // The name before vLLM renamed it; the Gateway API inference extension still documents it.
  out.gauge("vllm:gpu_cache_usage_perc", usage, stats.kv_cache_usage);
  out.gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", 1,
            {{"cache_dtype", std::string(dtype_name(options.kv_cache_dtype))},
             {"enable_prefix_caching", options.enable_prefix_caching ? "True" : "False"},
             {"num_gpu_blocks", std::to_string(stats.kv_pages)}});
}

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// One series over all models.
void add_lora_info(Snapshot& out, const std::vector<EngineSnapshot>& engines,
                   const std::vector<AdapterInfo>& adapters) {
  size_t most = 0;
  std::vector<std::string> running, waiting;
  for (size_t base = 0; base < engines.size(); ++base) {
    const auto& [name, stats, options] = engines[base];
    const auto own = std::ranges::count(adapters, base, &AdapterInfo::base);
    most += static_cast<size_t>(options.max_loras > 0 ? options.max_loras : own);
    running.insert(running.end(), stats.running_adapters.begin(), stats.running_adapters.end());
    waiting.insert(waiting.end(), stats.waiting_adapters.begin(), stats.waiting_adapters.end());
  }
  out.bare_gauge("vllm:lora_requests_info", "Running stats on lora requests.", unix_now(),
                 {{"max_lora", std::to_string(most)},
                  {"running_lora_adapters", fmt::format("{}", fmt::join(running, ","))},
                  {"waiting_lora_adapters", fmt::format("{}", fmt::join(waiting, ","))}});
}

void add_adapters(Snapshot& out, size_t base, const std::vector<AdapterInfo>& adapters) {
  double resident = 0;
  for (const AdapterInfo& adapter : adapters) {
    if (adapter.base != base || !adapter.resident) continue;
    ++resident;
    out.gauge("vllm:lora_adapter_loaded", "Adapters whose weights are in memory.", 1,
              {{"adapter_name", adapter.name},
               {"level", "cpu"},
               {"pinned", "false"},
               {"rank", std::to_string(adapter.rank)}});
  }
  out.gauge("vllm:num_cpu_loaded_lora_adapters", "Number of adapters whose weights are in memory.", resident);
  for (const AdapterInfo& adapter : adapters)
    if (adapter.base == base && adapter.load_seconds >= 0)
      out.gauge("vllm:lora_adapter_load_seconds", "How long the last load of an adapter took.",
                adapter.load_seconds, {{"adapter_name", adapter.name}});
}

}  // namespace

std::vector<prometheus::MetricFamily> snapshot_metrics(const std::vector<EngineSnapshot>& engines,
                                                       const std::vector<AdapterInfo>& adapters) {
  Snapshot out;
  for (size_t base = 0; base < engines.size(); ++base) {
    const auto& [name, stats, options] = engines[base];
    out.set_model(name);
    add_requests(out, stats);
    add_tokens(out, stats);
    add_cache(out, stats, options);
    if (base == 0) add_lora_info(out, engines, adapters);
    add_adapters(out, base, adapters);
  }
  std::vector<prometheus::MetricFamily> families = process_metrics();
  std::vector<prometheus::MetricFamily> engine = out.take();
  families.insert(families.end(), std::make_move_iterator(engine.begin()),
                  std::make_move_iterator(engine.end()));
  return families;
}

}  // namespace polylora
