// The flags of `serve`. Defaults are those of the option structs; nothing is defined twice.
#pragma once

#include <string>
#include <vector>

#include "cli/flag_set.h"
#include "cli/model_flags.h"
#include "hub/model_sources.h"
#include "serve/server.h"

namespace polylora {

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

/// What may differ between base models.
void add_base_flags(FlagSet& flags, BaseFlags& values);

/// All of `serve`.
void add_serve_flags(FlagSet& flags, ServeFlags& values);

}  // namespace polylora
