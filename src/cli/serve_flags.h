// The flags of `serve` and `chat`. Defaults are those of the option structs; nothing is defined twice.
#pragma once

#include <string>
#include <vector>

#include "cli/flag_set.h"
#include "cli/load.h"
#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "serve/server.h"

namespace polylora {

/// What both verbs ask about the model, its memory and its adapters.
struct ModelFlags {
  LoadOptions load;
  EngineOptions engine;
  AdapterRegistryOptions adapters;
  bool fit_max_model_len = false;         // --max-model-len auto
  std::vector<std::string> lora_modules;  // as given

  // As spelled; resolve() turns them into fields of the structs above.
  std::string dtype = "auto";
  std::string quantization;
  std::string kv_cache_dtype = "auto";
  std::string lora_dtype = "auto";

  ModelFlags();
  /// Settles what depends on other flags; warns where a value is replaced by another.
  void resolve();
};

struct ServeFlags : ModelFlags {
  ServerOptions server;
  std::vector<std::string> served_model_name;  // empty: the model's path
  std::vector<std::string> lora_watch;         // as given
  int shutdown_timeout_s = 30;
  bool disable_access_log = false;
  std::string tool_call_parser;  // as spelled

  /// Settles flags and environment; throws kInvalidArgument for combinations that make no sense.
  void resolve();
};

/// --dtype, --quantization, --threads, --max-model-len, --kv-cache-memory, …
void add_model_flags(FlagSet& flags, ModelFlags& values);

/// All of `serve`.
void add_serve_flags(FlagSet& flags, ServeFlags& values);

}  // namespace polylora
