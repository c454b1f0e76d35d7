// Everything behind the HTTP server: base models, an engine for each, and the adapters of all.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/load.h"
#include "cli/lora_modules.h"
#include "cli/lora_publisher.h"
#include "cli/serve_flags.h"
#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "serve/server.h"

namespace polylora {

/// One base model; `flags` with what was settled while loading.
struct FleetBase {
  BaseFlags flags;
  LoadedModel loaded;
};

/// The models share one backend, in turns, one budget for adapters and one for KV caches.
class Fleet {
 public:
  /// Loads all models and makes their engines. `flags` are resolved. Throws what loading does and what
  /// engines do, naming the base where there are several.
  explicit Fleet(const ServeFlags& flags);

  const std::vector<FleetBase>& bases() const { return bases_; }
  const Engine& engine(size_t base) const { return *engines_[base]; }
  AdapterRegistry& registry() { return *registry_; }
  /// What the server is told of them; to be used while this lives.
  std::vector<ServedModel> served_models() const;

 private:
  std::vector<FleetBase> bases_;
  std::unique_ptr<AdapterRegistry> registry_;
  std::vector<std::unique_ptr<Engine>> engines_;  // of the bases; last: they use the others
};

/// All names of all bases.
std::vector<std::string> base_names(const ServeFlags& flags);

/// The adapters to serve from the start, and the folders to watch: each base's own, and those that are for
/// whichever base they fit. Throw what parse_lora_modules() and parse_lora_watch() throw.
std::vector<LoraModule> fleet_modules(const ServeFlags& flags);
std::vector<WatchedFolder> fleet_watched(const ServeFlags& flags);

}  // namespace polylora
