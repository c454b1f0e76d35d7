// polylora chat: a conversation in the terminal, or line by line through a pipe.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <utility>

#include "base/error.h"
#include "cli/chat_session.h"
#include "cli/console.h"
#include "cli/kv_size.h"
#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/memory.h"
#include "cli/model_flags.h"
#include "cli/signals.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

struct ChatFlags : ModelFlags {
  std::string system;
  std::string adapter;
  double temperature = -1;  // negative: the model's
  double top_p = -1;        // likewise
  int max_tokens = 0;
};

void add_chat_flags(FlagSet& flags, ChatFlags& values) {
  add_model_flags(flags, values);
  flags.group("Chat");
  flags.list("--lora", values.lora_modules, "ITEM",
             "adapters to choose from with /lora, as serve's --lora-modules");
  flags.text("--adapter", values.adapter, "NAME", "adapter to start with (default: the base model)");
  flags.text("--system", values.system, "TEXT", "system message");
  flags.number("--temperature", values.temperature, "0: always the most likely token", "the model's");
  flags.number("--top-p", values.top_p, "sample from the most likely tokens of this mass", "the model's");
  flags.integer("--max-tokens", values.max_tokens, 0, "longest answer; 0: what the context has room for");
}

SamplingParams sampling_of(const ChatFlags& flags, const ServedModel& defaults) {
  SamplingParams sampling;
  sampling.temperature = defaults.default_temperature.value_or(sampling.temperature);
  sampling.top_p = defaults.default_top_p.value_or(sampling.top_p);
  sampling.top_k = defaults.default_top_k.value_or(sampling.top_k);
  sampling.min_p = defaults.default_min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = defaults.default_repetition_penalty.value_or(sampling.repetition_penalty);
  if (flags.temperature >= 0) sampling.temperature = static_cast<float>(flags.temperature);
  if (flags.top_p >= 0) sampling.top_p = static_cast<float>(flags.top_p);
  sampling.max_tokens = flags.max_tokens;
  return sampling;
}

void print_piece(std::string_view piece) {
  fmt::print("{}", piece);
  std::fflush(stdout);
}

/// Reads lines and does what they say.
class Terminal {
 public:
  Terminal(ChatSession& session, const AdapterRegistry& registry) : session_(session), registry_(registry) {}

  void run() {
    if (interactive_)
      print_line("Type a message; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.");
    std::string line;
    while (prompt(), std::getline(std::cin, line)) {
      if (line == "/quit" || line == "/exit") return;
      handle(line);
    }
    if (interactive_) print_line("");
  }

 private:
  void prompt() const {
    if (!interactive_) return;
    fmt::print(stderr, "{}> ", session_.adapter().empty() ? "base" : session_.adapter());
  }

  /// A bad message, command or adapter ends its line, not the conversation.
  void handle(const std::string& line) {
    try {
      if (line.starts_with("/")) {
        command(line);
      } else if (!line.empty()) {
        answer(line);
      }
    } catch (const Error& error) {
      print_line(fmt::format("polylora: error: {}", error.what()));
    }
  }

  void command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string argument = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "/lora" && !argument.empty()) {
      session_.use_adapter(argument);
    } else if (name == "/base") {
      session_.use_adapter("");
    } else if (name == "/loras" || name == "/lora") {
      for (const AdapterInfo& adapter : registry_.list()) report(adapter.name, "rank {}", adapter.rank);
    } else if (name == "/reset") {
      session_.reset();
    } else if (name == "/system") {
      session_.set_system(argument);
    } else if (name == "/help") {
      help();
    } else {
      fail(ErrorCode::kInvalidArgument, "unknown command {}; /help lists them", name);
    }
  }

  static void help() {
    print_line(
        "  /lora NAME    answer with this adapter\n"
        "  /base         answer with the base model\n"
        "  /loras        list the adapters\n"
        "  /reset        forget the conversation\n"
        "  /system TEXT  set the system message and forget the conversation\n"
        "  /quit         end");
  }

  void answer(const std::string& text) {
    const AnswerStats stats = session_.ask(text, print_piece);
    print_piece("\n");
    if (!interactive_) return;
    const char* ending = stats.reason == FinishReason::kAbort    ? ", stopped"
                         : stats.reason == FinishReason::kLength ? ", cut at the length limit"
                                                                 : "";
    const double rate = stats.seconds > 0 ? (stats.tokens - 1) / stats.seconds : 0;
    print_line(fmt::format("[{} tokens, {:.0f} tokens/s{}]", stats.tokens, rate, ending));
  }

  ChatSession& session_;
  const AdapterRegistry& registry_;
  const bool interactive_ = isatty(STDIN_FILENO) == 1;
};

/// What a conversation cannot do without.
void require_text(const LoadedModel& loaded) {
  if (!loaded.chat_template) {
    fail(ErrorCode::kNotFound, "the model has no chat template; name one with --chat-template");
  }
}

LoadedModel load_for_chat(const LoadOptions& options) {
  ProgressBar bar;
  LoadedModel loaded = load(options, bar.callback());
  require_text(loaded);
  return loaded;
}

void chat(ChatFlags& flags) {
  SignalWatcher signals;  // before any other thread
  std::vector<LoraModule> modules = parse_lora_modules(flags.lora_modules);
  find_lora_modules(modules, ModelSources({.say = print_line}));
  const LoadedModel loaded = load_for_chat(flags.load);
  fit_kv_cache(loaded.model->config, available_memory(), flags.fit_max_model_len, flags.engine);

  AdapterRegistry registry({adapter_base(loaded, flags, {})}, *loaded.backend, flags.adapters);
  load_lora_modules(registry, modules, {}, flags.adapters.memory_bytes);
  Engine engine(*loaded.model, *loaded.backend, registry, flags.engine);
  ChatSession session({engine, registry, *loaded.tokenizer, *loaded.chat_template, loaded.text.bos_token,
                       loaded.text.eos_token, engine.options().max_model_len},
                      sampling_of(flags, loaded.text), flags.system);
  session.use_adapter(flags.adapter);

  const SignalWatcher::Scope scope(signals, [&session] {
    if (!session.interrupt()) SignalWatcher::quit();
  });
  Terminal(session, registry).run();
}

}  // namespace

int run_chat(const Arguments& arguments) {
  ChatFlags values;
  values.engine.max_num_seqs = 1;
  FlagSet flags("chat", "Talks to a model and its adapters in the terminal.");
  add_chat_flags(flags, values);
  if (!flags.parse(arguments)) return 0;
  values.resolve();
  chat(values);
  return 0;
}

}  // namespace polylora
