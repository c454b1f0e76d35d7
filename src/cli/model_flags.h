// The flags that say which model, how it is held and what its caches may take: of `serve` and `chat`.
// Defaults are those of the option structs; nothing is defined twice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/flag_set.h"
#include "cli/load.h"
#include "engine/adapter_registry.h"
#include "engine/engine.h"

namespace polylora {

/// What both ask about the model, its memory and its adapters.
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

/// The loaded model as adapters see it; `loaded` outlives what it is given to.
AdapterBase adapter_base(const LoadedModel& loaded, const ModelFlags& flags, std::vector<std::string> names);

/// --model, --dtype, --max-model-len, --kv-cache-memory, …: what may differ between base models.
void add_checkpoint_flags(FlagSet& flags, ModelFlags& values);
/// --threads, --backend: what all base models of a process share.
void add_parallel_flags(FlagSet& flags, ModelFlags& values);
/// Both.
void add_model_flags(FlagSet& flags, ModelFlags& values);

}  // namespace polylora
