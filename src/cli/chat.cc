// `polylora chat MODEL …`: a conversation in the terminal, in this process.

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <deque>
#include <iostream>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/parse.h"
#include "cli/verbs.h"
#include "engine/engine.h"
#include "text/stream_decoder.h"

namespace polylora {
namespace {

struct ChatFlags {
  LoadOptions load;
  std::vector<std::string> adapters;
  std::string system;
  std::string first_adapter;
  SamplingParams sampling;

  ChatFlags() { sampling.max_tokens = 1024; }
};

constexpr std::string_view kHelp =
    "/lora NAME   answer with this adapter from now on\n"
    "/base        answer with the base model\n"
    "/loras       list the adapters\n"
    "/system TEXT set the system message and start over\n"
    "/reset       start over\n"
    "/quit        leave (or Ctrl-D); Ctrl-C stops an answer\n";

std::atomic<bool> interrupted = false;

/// Events cross from the engine's thread to the terminal's.
class EventQueue {
 public:
  void push(Event&& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    ready_.notify_one();
  }

  /// The next event; empty when none came within a blink, so that the caller can look at Ctrl-C.
  std::optional<Event> pop() {
    std::unique_lock lock(mutex_);
    if (!ready_.wait_for(lock, std::chrono::milliseconds(50), [this] { return !events_.empty(); }))
      return std::nullopt;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Event> events_;
};

class Conversation {
 public:
  Conversation(const LoadedModel& loaded, AdapterRegistry& registry, Engine& engine, const ChatFlags& flags)
      : loaded_(loaded),
        registry_(registry),
        engine_(engine),
        sampling_(flags.sampling),
        system_(flags.system) {
    reset();
    if (!flags.first_adapter.empty()) use_adapter(flags.first_adapter);
  }

  /// False: leave.
  bool handle(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string command = line.substr(0, space), rest = line.substr(std::min(space + 1, line.size()));
    if (command == "/quit" || command == "/exit") return false;
    if (command == "/help") {
      fmt::print("{}", kHelp);
    } else if (command == "/reset") {
      reset();
    } else if (command == "/system") {
      system_ = rest;
      reset();
    } else if (command == "/base") {
      adapter_.clear();
    } else if (command == "/lora") {
      use_adapter(rest);
    } else if (command == "/loras") {
      for (const AdapterInfo& info : registry_.list())
        fmt::print("{}  rank {}  {}\n", info.name, info.rank, info.path.string());
    } else if (command.starts_with("/")) {
      fmt::print("no such command; /help lists them\n");
    } else if (!line.empty()) {
      answer(line);
    }
    return true;
  }

  std::string prompt() const { return (adapter_.empty() ? "base" : adapter_) + "> "; }

 private:
  void reset() {
    messages_ = nlohmann::ordered_json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  void use_adapter(const std::string& name) {
    if (registry_.lease(name) == nullptr) {
      fmt::print("no adapter '{}'; /loras lists them\n", name);
    } else {
      adapter_ = name;
    }
  }

  std::vector<int32_t> render() const {
    const ChatTemplate::Options options{.bos_token = loaded_.bos_token,
                                        .eos_token = loaded_.eos_token,
                                        .has_bos = !loaded_.bos_token.empty(),
                                        .has_eos = !loaded_.eos_token.empty(),
                                        .tools = {},
                                        .documents = {},
                                        .extra_kwargs = {},
                                        .clock = {}};
    return loaded_.tokenizer->encode(loaded_.chat_template->render(messages_, options), false);
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    try {
      const std::string reply = generate(render());
      messages_.push_back({{"role", "assistant"}, {"content", reply}});
    } catch (const Error& error) {
      fmt::print("{}\n", error.what());
      messages_.erase(messages_.size() - 1);
    }
  }

  std::string generate(std::vector<int32_t> prompt) {
    EventQueue events;
    StreamDecoder decoder(*loaded_.tokenizer, true);
    Request request;
    request.prompt = std::move(prompt);
    request.sampling = sampling_;
    if (!adapter_.empty()) request.adapter = registry_.lease(adapter_);
    request.sink = [&events](Event&& event) { events.push(std::move(event)); };
    interrupted = false;
    const uint64_t number = engine_.submit(std::move(request));
    std::string reply;
    for (bool running = true; running;) {
      if (interrupted) engine_.cancel(number);
      std::optional<Event> event = events.pop();
      if (!event) continue;
      std::string piece;
      for (const TokenOutput& token : event->tokens) piece += decoder.push(token.id);
      if (event->finish) {
        piece += decoder.flush();
        running = false;
      }
      fmt::print("{}", piece);
      std::fflush(stdout);
      reply += piece;
      if (event->finish && event->finish->error) throw *event->finish->error;
    }
    fmt::print("\n");
    return reply;
  }

  const LoadedModel& loaded_;
  AdapterRegistry& registry_;
  Engine& engine_;
  SamplingParams sampling_;
  std::string system_;
  std::string adapter_;  // empty: base
  nlohmann::ordered_json messages_;
};

void add_chat_flags(CLI::App& app, ChatFlags& flags) {
  app.add_option("model", flags.load.model, "Hugging Face model folder or .gguf file")->required();
  app.add_option("--lora,--lora-modules", flags.adapters, "name=path, or a folder of adapters; repeatable")
      ->expected(1, 100000);
  app.add_option("--adapter", flags.first_adapter, "the adapter to start with; default: the base");
  app.add_option("--system", flags.system, "system message");
  app.add_option("--temperature", flags.sampling.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-p", flags.sampling.top_p, "nucleus sampling")->capture_default_str();
  app.add_option("--top-k", flags.sampling.top_k, "0: off")->capture_default_str();
  app.add_option("--max-tokens", flags.sampling.max_tokens, "of one answer")->capture_default_str();
  app.add_option("--dtype", flags.load.dtype, "auto, float32, bfloat16")->capture_default_str();
  app.add_option("--quantization,-q", flags.load.quantization, "q8 or q4");
  app.add_option("--chat-template", flags.load.chat_template, "file or inline Jinja");
  app.add_option("--threads", flags.load.threads, "0: one per CPU")->capture_default_str();
}

EngineOptions engine_options(const LoadedModel& loaded) {
  EngineOptions options;
  options.max_num_seqs = 1;
  options.max_model_len = std::min(8192, loaded.model->config.max_position_embeddings);
  options.kv_cache_dtype = loaded.kv_dtype;
  const size_t token = size_t{2} * static_cast<size_t>(loaded.model->config.num_layers) *
                       static_cast<size_t>(loaded.model->config.kv_size()) *
                       static_cast<size_t>(dtype_block_bytes(loaded.kv_dtype));
  options.kv_cache_bytes = 2 * static_cast<size_t>(options.max_model_len + 2 * kKvPageSize) * token;
  return options;
}

}  // namespace

int run_chat(std::vector<std::string> words) {
  ChatFlags flags;
  CLI::App app("Talks to a model in the terminal. /help inside lists the commands.", "chat");
  add_chat_flags(app, flags);
  if (const auto done = parse_words(app, std::move(words))) return *done;

  const LoadedModel loaded = load(flags.load);
  if (!loaded.chat_template)
    fail(ErrorCode::kInvalidArgument, "{} has no chat template; give one with --chat-template",
         flags.load.model);
  AdapterRegistry registry(loaded.model->config, *loaded.backend,
                           {.dtype = loaded.lora_dtype, .memory_bytes = size_t{2} << 30});
  for (const LoraModule& module : parse_lora_modules(flags.adapters)) {
    registry.add(module.name, module.path, AdapterRegistry::LoadMode::kNow, false);
  }
  Engine engine(*loaded.model, *loaded.backend, registry, engine_options(loaded));
  Conversation conversation(loaded, registry, engine, flags);

  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  std::signal(SIGINT, [](int) { interrupted = true; });
  if (terminal)
    fmt::print("{} on {}; /help lists the commands\n", flags.load.model, loaded.backend->description());
  for (std::string line;;) {
    if (terminal) fmt::print("{}", conversation.prompt());
    std::fflush(stdout);
    if (!std::getline(std::cin, line) || !conversation.handle(line)) return 0;
  }
}

}  // namespace polylora
