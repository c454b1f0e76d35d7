// `polylora serve MODEL …`

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <thread>

#include "base/error.h"
#include "cli/args.h"
#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/parse.h"
#include "cli/serve_flags.h"
#include "cli/verbs.h"
#include "engine/engine.h"
#include "serve/server.h"

namespace polylora {
namespace {

/// Static adapters are read in full before the server listens up to this many bytes, so that a bad one stops
/// the start; of the rest, config and header are checked, and the weights are read on first use.
constexpr size_t kEagerAdapterBytes = size_t{256} << 20;

/// SIGINT and SIGTERM are blocked everywhere and waited for here: the first one drains, the second one quits.
/// Created before any other thread, so that all inherit the mask.
class SignalWaiter {
 public:
  SignalWaiter() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGUSR1);  // ends the waiter itself
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
  }

  ~SignalWaiter() {
    if (!thread_.joinable()) return;
    pthread_kill(thread_.native_handle(), SIGUSR1);
    thread_.join();
  }

  void start(std::function<void()> on_stop) {
    thread_ = std::thread([this, on_stop = std::move(on_stop)] {
      for (int stops = 0;;) {
        int signal = 0;
        sigwait(&signals_, &signal);
        if (signal == SIGUSR1) return;
        if (++stops == 2) _exit(130);
        on_stop();
      }
    });
  }

 private:
  sigset_t signals_{};
  std::thread thread_;
};

double mebibytes(size_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

void print_line(std::string_view label, const std::string& text) {
  fmt::print(stderr, "{:<12} {}\n", label, text);
}

size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  for (std::string key; info >> key;) {
    size_t kib = 0;
    info >> kib;
    if (key == "MemAvailable:") return kib * 1024;
    info.ignore(64, '\n');
  }
  return size_t{4} << 30;
}

/// A quarter of the free memory, at most 4 GiB, at least one request of full length.
size_t default_kv_cache_bytes(const ModelConfig& config, const EngineOptions& engine) {
  const int length = engine.max_model_len > 0 ? engine.max_model_len : config.max_position_embeddings;
  const size_t token = size_t{2} * static_cast<size_t>(config.num_layers) *
                       static_cast<size_t>(config.kv_size()) *
                       static_cast<size_t>(dtype_block_bytes(engine.kv_cache_dtype));
  const size_t one_request = (static_cast<size_t>(length) + 2 * kKvPageSize) * token;
  return std::max(one_request, std::min(available_memory() / 4, size_t{4} << 30));
}

void apply_automatic_choices(const LoadedModel& loaded, ServeFlags& flags) {
  if (flags.kv_cache_dtype == "auto") flags.engine.kv_cache_dtype = loaded.kv_dtype;
  if (flags.lora_dtype == "auto") flags.registry.dtype = loaded.lora_dtype;
  if (flags.engine.kv_cache_bytes == 0)
    flags.engine.kv_cache_bytes = default_kv_cache_bytes(loaded.model->config, flags.engine);
}

/// The numbers of generation_config.json that stand in for what a request leaves out.
void read_generation_defaults(const nlohmann::json& config, ServedModel& served) {
  const auto number = [&](const char* key) -> std::optional<float> {
    if (!config.contains(key) || !config[key].is_number()) return std::nullopt;
    return config[key].get<float>();
  };
  served.default_temperature = number("temperature");
  served.default_top_p = number("top_p");
  served.default_min_p = number("min_p");
  served.default_repetition_penalty = number("repetition_penalty");
  if (const auto top_k = number("top_k")) served.default_top_k = static_cast<int>(*top_k);
  if (const auto max_tokens = number("max_new_tokens"))
    served.default_max_tokens = static_cast<int>(*max_tokens);
}

ServedModel describe_model(const LoadedModel& loaded, const ServeFlags& flags) {
  ServedModel served;
  served.names = flags.served_model_names;
  served.root = flags.load.model;
  served.tokenizer = loaded.tokenizer.get();
  served.chat_template = loaded.chat_template.get();
  served.bos_token = loaded.bos_token;
  served.eos_token = loaded.eos_token;
  read_generation_defaults(loaded.generation_config, served);
  return served;
}

void add_static_adapters(const ServeFlags& flags, AdapterRegistry& registry) {
  const std::vector<LoraModule> modules = parse_lora_modules(flags.lora_modules);
  for (const LoraModule& module : modules) {
    const auto& names = flags.served_model_names;
    if (std::find(names.begin(), names.end(), module.name) != names.end()) {
      fail(ErrorCode::kInvalidArgument, "--lora-modules: the name '{}' is the base model's", module.name);
    }
    try {
      registry.add(module.name, module.path, AdapterRegistry::LoadMode::kLazy, false, module.base_model_name);
    } catch (const Error& error) {
      fail(error.code(), "adapter {}: {}", module.name, error.what());
    }
  }
  size_t read = 0;
  for (const AdapterInfo& info : registry.list()) {
    read += info.bytes;
    if (read > std::min(kEagerAdapterBytes, flags.registry.memory_bytes)) break;
    try {
      registry.add(info.name, info.path, AdapterRegistry::LoadMode::kNow, true, info.base_model_name);
    } catch (const Error& error) {
      fail(error.code(), "adapter {}: {}", info.name, error.what());
    }
  }
}

void print_summary(const LoadedModel& loaded, const ServeFlags& flags, const Engine& engine,
                   const AdapterRegistry& registry) {
  const EngineOptions& options = engine.options();
  print_line("model", fmt::format("{} ({}, {})", flags.load.model, loaded.model->config.model_type,
                                  loaded.weights_description));
  print_line("backend", loaded.backend->description());
  print_line("memory", fmt::format("weights {:.0f} MiB, KV cache {:.0f} MiB ({}), activations {:.0f} MiB, "
                                   "adapters {:.0f} of {:.0f} MiB",
                                   mebibytes(loaded.model->bytes()), mebibytes(engine.kv_cache_bytes()),
                                   options.kv_cache_dtype == DType::kF32 ? "float32" : "bfloat16",
                                   mebibytes(engine.activation_bytes()), mebibytes(registry.resident_bytes()),
                                   mebibytes(flags.server.enable_lora ? flags.registry.memory_bytes : 0)));
  print_line("limits",
             fmt::format("{} tokens a request, {} requests and {} tokens a step", options.max_model_len,
                         options.max_num_seqs, options.max_num_batched_tokens));
  if (flags.server.enable_lora) {
    const std::vector<AdapterInfo> adapters = registry.list();
    std::string names;
    for (size_t i = 0; i < adapters.size() && i < 8; ++i) names += (i == 0 ? ": " : ", ") + adapters[i].name;
    print_line("adapters", fmt::format("{}{}{}", adapters.size(), names, adapters.size() > 8 ? ", …" : ""));
  }
}

}  // namespace

int run_serve(std::vector<std::string> words) {
  SignalWaiter signals;
  const auto begin = std::chrono::steady_clock::now();
  ServeFlags flags;
  CLI::App app("Serves one base model and many LoRA adapters over HTTP; vLLM's flags, OpenAI's API.",
               "serve");
  add_serve_flags(app, flags);
  if (const auto done = parse_words(app, expand_config_file(std::move(words)))) return *done;
  finish_serve_flags(app, flags);

  const LoadedModel loaded = load(flags.load);
  apply_automatic_choices(loaded, flags);
  AdapterRegistry registry(loaded.model->config, *loaded.backend, flags.registry);
  add_static_adapters(flags, registry);
  Engine engine(*loaded.model, *loaded.backend, registry, flags.engine);
  Server server(engine, registry, describe_model(loaded, flags), flags.server);
  signals.start([&] { server.stop(std::chrono::seconds(flags.shutdown_timeout_s)); });

  print_summary(loaded, flags, engine, registry);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  print_line("ready", fmt::format("after {:.2f} s", took.count()));
  fmt::print(stderr, "polylora is listening on {}\n", server.url());
  server.run();
  return 0;
}

}  // namespace polylora
