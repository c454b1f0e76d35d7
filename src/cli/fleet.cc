#include "cli/fleet.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "cli/console.h"
#include "cli/kv_size.h"
#include "cli/lora_watch.h"
#include "cli/memory.h"
#include "cli/values.h"

namespace polylora {
namespace {

/// Where there are several bases, an error says whose it is.
template <typename Body>
auto for_base(const BaseFlags& flags, bool several, Body body) {
  try {
    return body();
  } catch (const Error& error) {
    if (!several) throw;
    throw Error(error.code(), fmt::format("base '{}': {}", flags.served_model_name.front(), error.what()));
  }
}

FleetBase load_base(const BaseFlags& flags, std::shared_ptr<Backend> backend) {
  ProgressBar bar;
  FleetBase base{flags, load(flags.load, bar.callback(), std::move(backend))};
  if (flags.max_logprobs < 0) base.flags.max_logprobs = base.loaded.model->config.vocab_size;
  return base;
}

void fit_caches(std::vector<FleetBase>& bases, const ServeFlags& flags) {
  std::vector<KvCachePlan> plans;
  for (FleetBase& base : bases)
    plans.push_back({base.loaded.model->config, base.flags.fit_max_model_len, base.flags.engine});
  const size_t available = available_memory();
  fit_kv_caches(plans, available, flags.engine.kv_cache_bytes);
  size_t needed = flags.server.enable_lora ? flags.adapters.memory_bytes : 0;
  for (const KvCachePlan& plan : plans) needed += plan.options.kv_cache_bytes;
  if (bases.size() > 1 && needed > available) {  // nobody who sized one of them saw the sum
    warn(
        "KV caches and adapters of all bases may take {}, but {} are free: lower kv-cache-memory or "
        "lora-memory",
        format_bytes(needed), format_bytes(available));
  }
}

void append(std::vector<std::string>& names, const std::vector<std::string>& more) {
  names.insert(names.end(), more.begin(), more.end());
}

}  // namespace

Fleet::Fleet(const ServeFlags& flags) {
  const bool several = flags.served.size() > 1;
  std::shared_ptr<Backend> backend;
  std::vector<AdapterBase> adapter_bases;
  for (const BaseFlags& one : flags.served) {
    bases_.push_back(for_base(one, several, [&] { return load_base(one, backend); }));
    const FleetBase& base = bases_.back();
    backend = base.loaded.backend;
    adapter_bases.push_back(adapter_base(base.loaded, one, one.served_model_name));
  }
  fit_caches(bases_, flags);
  registry_ = std::make_unique<AdapterRegistry>(std::move(adapter_bases), *backend, flags.adapters);
  const auto turns = std::make_shared<ComputeTurns>();
  for (const FleetBase& base : bases_) {
    engines_.push_back(for_base(base.flags, several, [&] {
      return std::make_unique<Engine>(*base.loaded.model, *backend, *registry_, base.flags.engine, turns);
    }));
  }
}

std::vector<ServedModel> Fleet::served_models() const {
  std::vector<ServedModel> models;
  for (const FleetBase& base : bases_) {
    ServedModel& model = models.emplace_back(base.loaded.text);
    model.engine = engines_[models.size() - 1].get();
    model.names = base.flags.served_model_name;
    model.tokenizer = base.loaded.tokenizer.get();
    model.chat_template = base.loaded.chat_template ? &*base.loaded.chat_template : nullptr;
    model.max_logprobs = base.flags.max_logprobs;
    model.eos_token_ids = base.loaded.model->config.eos_token_ids;
  }
  return models;
}

std::vector<std::string> base_names(const ServeFlags& flags) {
  std::vector<std::string> names;
  for (const BaseFlags& base : flags.served) append(names, base.served_model_name);
  return names;
}

std::vector<LoraModule> fleet_modules(const ServeFlags& flags) {
  std::vector<LoraModule> modules = parse_lora_modules(flags.lora_modules);
  for (const BaseFlags& base : flags.served) {
    for (LoraModule& module : parse_lora_modules(base.lora_modules)) {
      const auto& names = base.served_model_name;
      if (std::ranges::find(names, module.base_model_name) == names.end())
        module.base_model_name = names.front();
      modules.push_back(std::move(module));
    }
  }
  return modules;
}

std::vector<WatchedFolder> fleet_watched(const ServeFlags& flags) {
  std::vector<std::string> taken = base_names(flags);
  std::vector<WatchedFolder> all;
  const auto take = [&](const std::vector<std::string>& items, const std::string& base_model_name) {
    for (WatchedFolder& folder : parse_lora_watch(items, taken)) {
      folder.base_model_name = base_model_name;
      taken.push_back(folder.name);
      all.push_back(std::move(folder));
    }
  };
  take(flags.lora_watch, "");
  for (const BaseFlags& base : flags.served) take(base.lora_watch, base.served_model_name.front());
  return all;
}

}  // namespace polylora
