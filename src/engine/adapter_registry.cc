#include "engine/adapter_registry.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <variant>

#include "base/error.h"
#include "engine/adapter_generation.h"
#include "engine/adapter_loader.h"
#include "engine/adapter_names.h"
#include "engine/adapter_stacks.h"
#include "engine/name_claims.h"
#include "engine/resident_adapters.h"
#include "engine/wake_calls.h"

namespace polylora {
namespace {

void check_limits(const std::string& name, const AdapterFile& file, const AdapterBase& base,
                  size_t memory_bytes) {
  if (base.max_lora_rank > 0 && file.max_rank() > base.max_lora_rank) {
    fail(ErrorCode::kResourceExhausted, "LoRA rank {} is greater than max_lora_rank {}.", file.max_rank(),
         base.max_lora_rank);
  }
  if (const size_t bytes = file.packed_bytes(base.dtype); bytes > memory_bytes) {
    fail(ErrorCode::kResourceExhausted,
         "LoRA adapter '{}' needs {} bytes, more than the {} bytes for adapters", name, bytes, memory_bytes);
  }
}

/// What the base model is called to the adapter's users.
std::string parent_name(const AdapterBase& base, const std::string& given) {
  if (std::ranges::find(base.names, given) != base.names.end()) return given;
  return base.names.empty() ? std::string() : base.names.front();
}

/// Its weights are on disk.
AdapterLease make_generation(const std::string& name, const std::filesystem::path& path,
                             const MatchedAdapter& matched, const AdapterBase& base,
                             const std::string& base_model_name) {
  auto generation = std::make_shared<AdapterGeneration>();
  generation->name = name;
  generation->path = path;
  generation->base = matched.base;
  generation->base_model_name = parent_name(base, base_model_name);
  generation->rank = matched.file.max_rank();
  generation->vocab_size = matched.file.vocab_size();
  generation->stackable = matched.file.stackable();
  generation->bytes = matched.file.packed_bytes(base.dtype);
  return generation;
}

/// From here on its weights are in memory.
void settle(AdapterGeneration& generation, LoadedAdapter loaded) {
  generation.bytes = loaded.weights->bytes();
  generation.weights = std::move(loaded.weights);
  generation.content_hash = loaded.content_hash;
  generation.load_seconds = loaded.seconds;
}

[[noreturn]] void fail_name_taken(const std::string& name) {
  fail(ErrorCode::kAlreadyExists,
       "The lora adapter '{}' has already been loaded. If you want to load the adapter in place, set "
       "'load_inplace' to True.",
       name);
}

}  // namespace

struct AdapterRegistry::State {
  State(std::vector<AdapterBase> bases_, Backend& backend, const AdapterRegistryOptions& options)
      : bases(std::move(bases_)),
        resident(options.memory_bytes, options.max_cpu_loras),
        loader(
            bases, backend,
            [this](AdapterGeneration& generation, AdapterLoader::Result result) {
              loaded(generation, std::move(result));
            },
            [this] { wakes.call(); }) {}

  const std::vector<AdapterBase> bases;
  NameClaims adding;  // names whose add() is under way
  WakeCalls wakes;

  mutable std::mutex mutex;  // of the three below and of what generations say it guards
  AdapterNames names;
  ResidentAdapters resident;
  AdapterStacks stacks;

  AdapterLoader loader;  // last: its thread uses all of the above

  void load_now(AdapterGeneration& generation, const AdapterFile& file, const AdapterGeneration* replaced);
  void loaded(AdapterGeneration& generation, AdapterLoader::Result result);

  // --- with the mutex held
  void forget(const AdapterGeneration& withdrawn);
  Acquired acquire(const AdapterLease& lease);
  Acquired acquire_stack(const AdapterGeneration& stack);
};

AdapterRegistry::AdapterRegistry(std::vector<AdapterBase> bases, Backend& backend,
                                 const AdapterRegistryOptions& options)
    : state_(std::make_unique<State>(std::move(bases), backend, options)) {}

AdapterRegistry::~AdapterRegistry() = default;

uint64_t AdapterRegistry::add_wake(std::function<void()> wake) {
  return state_->wakes.add(std::move(wake));
}

void AdapterRegistry::remove_wake(uint64_t number) {
  state_->wakes.remove(number);
}

// ------------------------------------------------------------------------------------------------- names

void AdapterRegistry::add(const std::string& name, const std::filesystem::path& path, LoadMode mode,
                          bool replace, const std::string& base_model_name) {
  State& state = *state_;
  const NameClaims::Claim claim(state.adding, name);
  AdapterLease replaced = lease(name);  // freed after the lock
  if (replaced != nullptr && !replace) fail_name_taken(name);

  const MatchedAdapter matched = match_base(path, base_model_name, state.bases);
  const AdapterBase& base = state.bases[matched.base];
  check_limits(name, matched.file, base, state.resident.budget().max_bytes());
  const AdapterLease generation = make_generation(name, path, matched, base, base_model_name);
  if (mode == LoadMode::kNow) state.load_now(*generation, matched.file, replaced.get());
  {
    const std::scoped_lock lock(state.mutex);
    replaced = state.names.publish(generation);
    if (replaced != nullptr) state.forget(*replaced);
    state.resident.touch(*generation);
  }
  state.wakes.call();  // room may have changed hands
}

bool AdapterRegistry::remove(std::string_view name) {
  AdapterLease removed;  // freed after the lock
  const std::scoped_lock lock(state_->mutex);
  removed = state_->names.withdraw(std::string(name));
  if (removed != nullptr) state_->forget(*removed);
  return removed != nullptr;
}

void AdapterRegistry::State::forget(const AdapterGeneration& withdrawn) {
  stacks.forget(withdrawn);
  resident.forget(withdrawn);
}

AdapterLease AdapterRegistry::lease(std::string_view name) const {
  const std::scoped_lock lock(state_->mutex);
  return state_->names.find(std::string(name));
}

AdapterLease AdapterRegistry::stack(std::span<const StackTerm> members) {
  const std::scoped_lock lock(state_->mutex);
  check_stack(members, state_->resident.budget());
  return state_->stacks.get(members);
}

std::vector<AdapterInfo> AdapterRegistry::list() const {
  const std::scoped_lock lock(state_->mutex);
  std::vector<AdapterInfo> infos;
  infos.reserve(state_->names.in_order().size());
  for (const auto& [place, generation] : state_->names.in_order()) {
    infos.push_back({.name = generation->name,
                     .path = generation->path,
                     .base = generation->base,
                     .base_model_name = generation->base_model_name,
                     .generation = generation->id,
                     .rank = generation->rank,
                     .bytes = generation->bytes,
                     .resident = generation->weights != nullptr,
                     .load_seconds = generation->load_seconds});
  }
  return infos;
}

// ----------------------------------------------------------------------------------------------- weights

size_t AdapterRegistry::resident_bytes() const {
  return state_->resident.budget().bytes();
}

int AdapterRegistry::resident_count() const {
  return state_->resident.budget().count();
}

/// Of a generation that nobody else knows yet.
void AdapterRegistry::State::load_now(AdapterGeneration& generation, const AdapterFile& file,
                                      const AdapterGeneration* replaced) {
  std::optional<AdapterBudget::Reservation> reservation;
  {
    const std::scoped_lock lock(mutex);
    reservation = resident.reserve(generation.bytes, replaced);
  }
  if (!reservation) {
    fail(ErrorCode::kResourceExhausted,
         "LoRA adapter '{}' needs {} bytes; of the {} bytes for adapters too many are in use by running "
         "requests; try again later",
         generation.name, generation.bytes, resident.budget().max_bytes());
  }
  settle(generation, loader.load(generation, file, std::move(*reservation)));
}

void AdapterRegistry::State::loaded(AdapterGeneration& generation, AdapterLoader::Result result) {
  const std::scoped_lock lock(mutex);
  generation.loading = false;
  if (Error* error = std::get_if<Error>(&result)) {
    generation.load_error = std::move(*error);
    return;
  }
  generation.load_error.reset();
  settle(generation, std::get<LoadedAdapter>(std::move(result)));
  resident.touch(generation);
}

AdapterRegistry::Acquired AdapterRegistry::acquire(const AdapterLease& lease) {
  check(lease != nullptr, "the base model has no weights to acquire");
  const std::scoped_lock lock(state_->mutex);
  return state_->acquire(lease);
}

AdapterRegistry::Acquired AdapterRegistry::State::acquire(const AdapterLease& lease) {
  if (!lease->members.empty()) return acquire_stack(*lease);
  if (lease->weights != nullptr) {
    resident.touch(*lease);
    return {Residency::kReady, lease->weights, std::nullopt};
  }
  if (lease->loading) return {Residency::kLoading, nullptr, std::nullopt};
  if (lease->load_error) return {Residency::kFailed, nullptr, std::exchange(lease->load_error, std::nullopt)};
  auto reservation = resident.reserve(lease->bytes, nullptr);
  if (!reservation) return {Residency::kNoRoom, nullptr, std::nullopt};
  lease->loading = true;
  loader.queue(lease, std::move(*reservation));
  return {Residency::kLoading, nullptr, std::nullopt};
}

/// Asks for all members, so that what is missing is read at once; those that are there stay while this is
/// decided.
AdapterRegistry::Acquired AdapterRegistry::State::acquire_stack(const AdapterGeneration& stack) {
  std::vector<std::pair<std::shared_ptr<const Adapter>, float>> terms;
  Acquired missing{Residency::kReady, nullptr, std::nullopt};
  for (const StackTerm& member : stack.members) {
    Acquired acquired = acquire(member.adapter);
    if (acquired.residency == Residency::kFailed) return acquired;
    if (acquired.residency != Residency::kReady) {
      missing = std::move(acquired);
    } else {
      terms.emplace_back(std::move(acquired.adapter), member.weight);
    }
  }
  if (missing.residency != Residency::kReady) return missing;
  return {Residency::kReady, std::make_shared<const Adapter>(terms), std::nullopt};
}

}  // namespace polylora
