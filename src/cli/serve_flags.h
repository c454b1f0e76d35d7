// The flags of `serve` and `chat`. Defaults are those of the option structs; nothing is defined twice.
#pragma once

#include <string>
#include <vector>

#include "cli/flag_set.h"
#include "cli/load.h"
#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "hub/model_sources.h"
#include "serve/server.h"

namespace polylora {

/// What both verbs ask about the model, its memory and its adapters.
struct ModelFlags {
  LoadOptions load;
  EngineOptions engine;
  AdapterRegistryOptions adapters;
  DType adapter_dtype = DType::kBf16;     // how A and B are held
  int64_t max_lora_rank = 0;              // 0: any
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

/// What `serve` asks about one base model.
struct BaseFlags : ModelFlags {
  std::vector<std::string> served_model_name;  // empty: the model's path
  std::vector<std::string> lora_watch;         // as given
  int max_logprobs = 20;                       // -1: all

  void resolve();
};

/// With `bases`, the flags of BaseFlags say what holds for every base that does not say otherwise;
/// kv_cache_bytes is for all of them together, and lora_modules and lora_watch are for whichever they fit.
struct ServeFlags : BaseFlags {
  ServerOptions server;
  SourceOptions sources;           // what may be downloaded
  std::vector<std::string> bases;  // as given: JSON objects of the flags of one base each
  int shutdown_timeout_s = 30;
  bool disable_access_log = false;
  std::string tool_call_parser;  // as spelled

  std::vector<BaseFlags> served;  // by resolve(): what `bases` describes, or these flags' one model

  /// Settles flags and environment; throws kInvalidArgument for combinations that make no sense.
  void resolve();
};

/// The loaded model as adapters see it; `loaded` outlives what it is given to.
AdapterBase adapter_base(const LoadedModel& loaded, const ModelFlags& flags, std::vector<std::string> names);

/// --dtype, --quantization, --threads, --max-model-len, --kv-cache-memory, …
void add_model_flags(FlagSet& flags, ModelFlags& values);

/// What may differ between base models.
void add_base_flags(FlagSet& flags, BaseFlags& values);

/// All of `serve`.
void add_serve_flags(FlagSet& flags, ServeFlags& values);

}  // namespace polylora
