// polylora serve: load, register the adapters, listen, drain.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/kv_size.h"
#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/lora_watch.h"
#include "cli/memory.h"
#include "cli/serve_flags.h"
#include "cli/signals.h"
#include "cli/values.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

/// Adapters that are read before listening, so that a NaN in them is found at once; the rest on first use.
constexpr size_t kPreloadBytes = size_t{256} << 20;

LoadedModel load_with_progress(const LoadOptions& options) {
  ProgressBar bar;
  return load(options, bar.callback());
}

ServedModel served_model(const LoadedModel& loaded, const ServeFlags& flags) {
  ServedModel served = loaded.text;
  served.names = flags.served_model_name;
  served.tokenizer = loaded.tokenizer.get();
  served.chat_template = loaded.chat_template ? &*loaded.chat_template : nullptr;
  return served;
}

void report_model(const LoadedModel& loaded, const ServeFlags& flags) {
  const ModelConfig& config = loaded.model->config;
  print_line(fmt::format("polylora {}", POLYLORA_VERSION));
  report("model", "{} ({}, {}, {} layers of {})", flags.load.model, loaded.format, config.model_type,
         config.num_layers, config.hidden_size);
  report("served as", "{}", fmt::join(flags.served_model_name, ", "));
  report("computes", "{}, weights in {}", loaded.backend->description(),
         weight_format_name(loaded.model->layers.front().at(Site::kQkv).weight->format()));
}

void report_memory(const LoadedModel& loaded, const Engine& engine, const ServeFlags& flags) {
  const size_t token_bytes = kv_bytes_per_token(loaded.model->config, flags.engine.kv_cache_dtype);
  report("memory", "weights     {:>10}", format_bytes(loaded.model->bytes()));
  report("", "KV cache    {:>10}  {} tokens, at most {} a request", format_bytes(engine.kv_cache_bytes()),
         engine.kv_cache_bytes() / token_bytes, engine.options().max_model_len);
  report("", "activations {:>10}", format_bytes(engine.activation_bytes()));
  if (flags.server.enable_lora)
    report("", "adapters    {:>10}  at most", format_bytes(flags.adapters.memory_bytes));
}

void report_adapters(const AdapterRegistry& registry) {
  std::string label = "adapters";
  for (const AdapterInfo& adapter : registry.list()) {
    report(label, "{}: rank {}, {}{}", adapter.name, adapter.rank, format_bytes(adapter.bytes),
           adapter.resident ? "" : ", read on first use");
    label.clear();
  }
}

void report_watched(const std::vector<WatchedFolder>& folders) {
  std::string label = "watching";
  for (const WatchedFolder& folder : folders) {
    report(label, "{}: served as {}@STEP and {}", folder.path.string(), folder.name, folder.name);
    label.clear();
  }
}

LoraPublisher::Reports watch_reports(Server& server) {
  return {.removed = [&server](const std::string& name) { server.adapter_removed(name); },
          .info = [](const std::string& line) { spdlog::info("{}", line); },
          .warning = [](const std::string& line) { spdlog::warn("{}", line); }};
}

/// First signal: drain. Second: quit.
std::function<void()> stop_handler(Server& server, int drain_seconds) {
  return [&server, drain_seconds, stopping = false]() mutable {
    if (stopping) SignalWatcher::quit();
    stopping = true;
    print_line(fmt::format("polylora is stopping; running requests get {} s (once more to quit at once)",
                           drain_seconds));
    server.stop(std::chrono::seconds(drain_seconds));
  };
}

void serve(ServeFlags& flags) {
  SignalWatcher signals;  // before any other thread
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_color_mt("polylora"));

  const std::vector<LoraModule> modules = parse_lora_modules(flags.lora_modules);
  const std::vector<WatchedFolder> watched = parse_lora_watch(flags.lora_watch, flags.served_model_name);
  const Clock::time_point start = Clock::now();
  const LoadedModel loaded = load_with_progress(flags.load);
  const ModelConfig& config = loaded.model->config;
  if (flags.server.max_logprobs < 0) flags.server.max_logprobs = config.vocab_size;
  fit_kv_cache(config, available_memory(), flags.fit_max_model_len, flags.engine);

  AdapterRegistry registry({adapter_base(loaded, flags, flags.served_model_name)}, *loaded.backend,
                           flags.adapters);
  load_lora_modules(registry, modules, flags.served_model_name,
                    std::min(kPreloadBytes, flags.adapters.memory_bytes));
  LoraPublisher publisher(registry, watched, flags.served_model_name);
  publisher.scan(Clock::now());  // what is there already is served from the first request on
  Engine engine(*loaded.model, *loaded.backend, registry, flags.engine);
  Server server(engine, registry, served_model(loaded, flags), flags.server);

  report_model(loaded, flags);
  report_memory(loaded, engine, flags);
  report_adapters(registry);
  report_watched(watched);
  report("loaded in", "{:.1f} s", std::chrono::duration<double>(Clock::now() - start).count());
  publisher.set_reports(watch_reports(server));
  std::optional<LoraWatch> watch;
  if (!watched.empty()) watch.emplace(publisher);
  const SignalWatcher::Scope scope(signals, stop_handler(server, flags.shutdown_timeout_s));
  print_line(fmt::format("polylora is listening on {}", server.url()));
  server.run();
}

}  // namespace

int run_serve(const Arguments& arguments) {
  ServeFlags values;
  FlagSet flags("serve", "Serves one base model and many LoRA adapters over HTTP.");
  add_serve_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  values.resolve();
  serve(values);
  return 0;
}

}  // namespace polylora
