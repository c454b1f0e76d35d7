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

#include "cli/adapter_text.h"
#include "cli/console.h"
#include "cli/fleet.h"
#include "cli/kv_size.h"
#include "cli/lora_modules.h"
#include "cli/lora_watch.h"
#include "cli/serve_flags.h"
#include "cli/signals.h"
#include "cli/values.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

using Clock = std::chrono::steady_clock;

/// Adapters that are read before listening, so that a NaN in them is found at once; the rest on first use.
constexpr size_t kPreloadBytes = size_t{256} << 20;

void report_model(const FleetBase& base) {
  const ModelConfig& config = base.loaded.model->config;
  report("model", "{} ({}, {}, {} layers of {})", base.flags.load.model, base.loaded.format,
         config.model_type, config.num_layers, config.hidden_size);
  report("served as", "{}", fmt::join(base.flags.served_model_name, ", "));
  report("computes", "{}, weights: {}", base.loaded.backend->description(), base.loaded.model->formats);
}

void report_memory(const FleetBase& base, const Engine& engine) {
  const size_t token_bytes = kv_bytes_per_token(base.loaded.model->config, base.flags.engine.kv_cache_dtype);
  report("memory", "weights     {:>10}", format_bytes(base.loaded.model->bytes()));
  report("", "KV cache    {:>10}  {} tokens, at most {} a request", format_bytes(engine.kv_cache_bytes()),
         engine.kv_cache_bytes() / token_bytes, engine.options().max_model_len);
  report("", "activations {:>10}", format_bytes(engine.activation_bytes()));
}

void report_fleet(const Fleet& fleet, const ServeFlags& flags) {
  print_line(fmt::format("polylora {}", POLYLORA_VERSION));
  for (size_t i = 0; i < fleet.bases().size(); ++i) {
    report_model(fleet.bases()[i]);
    report_memory(fleet.bases()[i], fleet.engine(i));
  }
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

void serve(const ServeFlags& flags) {
  SignalWatcher signals;  // before any other thread
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_color_mt("polylora"));

  SourceOptions source_options = flags.sources;
  source_options.say = print_line;
  const ModelSources sources(source_options);
  ServerOptions server_options = flags.server;
  server_options.find_adapter = [&sources](const std::string& text) {
    return sources.find_requested_adapter(text);
  };
  AdapterTextReader texts(!flags.load.chat_template.empty());
  server_options.load_adapter_text = [&texts](const std::filesystem::path& folder, const ServedModel& base) {
    return texts.read(folder, base);
  };
  std::vector<LoraModule> modules = fleet_modules(flags);
  find_lora_modules(modules, sources);
  const std::vector<WatchedFolder> watched = fleet_watched(flags);
  const std::vector<std::string> names = base_names(flags);
  const Clock::time_point start = Clock::now();
  Fleet fleet(flags);
  AdapterRegistry& registry = fleet.registry();
  load_lora_modules(registry, modules, names, std::min(kPreloadBytes, flags.adapters.memory_bytes));
  LoraPublisher publisher(registry, watched, names);
  publisher.scan(Clock::now());  // what is there already is served from the first request on
  Server server(fleet.served_models(), registry, server_options);

  report_fleet(fleet, flags);
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
  FlagSet flags("serve", "Serves base models, one or more, and many LoRA adapters over HTTP.");
  add_serve_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  values.resolve();
  serve(values);
  return 0;
}

}  // namespace polylora
