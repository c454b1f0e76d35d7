// The flags of `polylora serve`: vLLM's names, grouped as vLLM groups them.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "cli/load.h"
#include "engine/engine.h"
#include "serve/server.h"

namespace polylora {

/// What the flags fill. Defaults live in the option structs of the layers, nowhere else.
struct ServeFlags {
  LoadOptions load;
  EngineOptions engine;
  AdapterRegistryOptions registry;
  ServerOptions server;
  std::vector<std::string> served_model_names;
  std::vector<std::string> lora_modules;
  std::string max_model_len = "auto";
  std::string kv_cache_memory;  // empty: chosen from the free memory
  std::string kv_cache_dtype = "auto";
  std::string lora_memory = "2G";
  std::string lora_dtype = "auto";
  std::string scheduling_policy = "fcfs";
  int block_size = kKvPageSize;
  int shutdown_timeout_s = 30;
};

/// Adds every flag to `app`; `flags` must outlive the parse.
void add_serve_flags(CLI::App& app, ServeFlags& flags);

/// Checks what CLI11 cannot, fills in what depends on other flags and on the environment, and warns, one line
/// each, about vLLM flags that were given and mean nothing here. Throws kInvalidArgument naming the flag.
void finish_serve_flags(const CLI::App& app, ServeFlags& flags);

}  // namespace polylora
