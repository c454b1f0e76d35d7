#include "engine/adapter_registry.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "base/error.h"
#include "engine/adapter_budget.h"
#include "engine/adapter_generation.h"
#include "engine/adapter_stacks.h"

namespace polylora {
namespace {

/// Weights with their share of the budget: both go when the last user goes.
struct ResidentAdapter {
  AdapterBudget::Reservation reservation;
  std::unique_ptr<const Adapter> adapter;
};

struct LoadedAdapter {
  std::shared_ptr<const Adapter> weights;
  uint64_t content_hash = 0;
  double seconds = 0;
};

}  // namespace

uint64_t next_generation_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

struct AdapterRegistry::State {
  State(std::vector<AdapterBase> bases_, Backend& backend_, const AdapterRegistryOptions& options)
      : bases(std::move(bases_)),
        backend(backend_),
        budget(std::make_shared<AdapterBudget>(options.memory_bytes, options.max_cpu_loras)) {}

  struct LoadJob {
    std::weak_ptr<AdapterGeneration> generation;  // nobody wants it any more: not loaded
    AdapterBudget::Reservation reservation;
  };

  const std::vector<AdapterBase> bases;
  Backend& backend;
  const std::shared_ptr<AdapterBudget> budget;

  mutable std::mutex mutex;
  std::condition_variable changed;          // a job was queued, a name is no longer being added, stopping
  std::map<uint64_t, AdapterLease> places;  // in order of registration
  std::unordered_map<std::string, uint64_t> names;  // -> place
  uint64_t places_used = 0;
  uint64_t uses = 0;                              // clock of last_used
  std::map<uint64_t, AdapterGeneration*> by_use;  // last_used -> published and resident
  AdapterStacks stacks;
  std::set<std::string> adding;  // names whose add() is under way
  std::deque<LoadJob> jobs;
  bool stopping = false;

  std::mutex wake_mutex;  // held during the calls, so that remove_wake() waits for them
  std::map<uint64_t, std::function<void()>> wakes;
  uint64_t wakes_added = 0;
  std::thread loader;

  // --- with the mutex held
  AdapterLease find(const std::string& name) const;
  std::optional<AdapterBudget::Reservation> reserve(size_t bytes, const AdapterGeneration* last_to_evict);
  AdapterGeneration* least_recently_used(const AdapterGeneration* last_choice) const;
  void touch(AdapterGeneration& generation);
  void publish(const AdapterLease& generation);
  void withdraw(AdapterGeneration& generation);
  Acquired acquire(const AdapterLease& lease);
  Acquired acquire_stack(const AdapterGeneration& stack);

  // --- without
  LoadedAdapter load(const AdapterGeneration& generation, const AdapterFile& file,
                     AdapterBudget::Reservation reservation) const;
  void load_in_background();
  void run_job(LoadJob job);
  void call_wake();
};

// -------------------------------------------------------------------------------------------- bookkeeping

AdapterLease AdapterRegistry::State::find(const std::string& name) const {
  const auto place = names.find(name);
  return place == names.end() ? nullptr : places.at(place->second);
}

/// Evicts until `bytes` fit; empty when what remains is in use. Generations that lost their name are left
/// alone: their files may be gone, and they go by themselves with their last request.
std::optional<AdapterBudget::Reservation> AdapterRegistry::State::reserve(
    size_t bytes, const AdapterGeneration* last_to_evict) {
  for (;;) {
    if (auto reservation = budget->reserve(bytes)) return reservation;
    AdapterGeneration* victim = least_recently_used(last_to_evict);
    if (victim == nullptr) return std::nullopt;
    by_use.erase(victim->last_used);
    victim->weights.reset();
  }
}

AdapterGeneration* AdapterRegistry::State::least_recently_used(const AdapterGeneration* last_choice) const {
  AdapterGeneration* fallback = nullptr;
  for (const auto& [use, generation] : by_use) {
    if (generation->weights.use_count() > 1) continue;  // computed with
    if (generation != last_choice) return generation;
    fallback = generation;
  }
  return fallback;
}

void AdapterRegistry::State::touch(AdapterGeneration& generation) {
  by_use.erase(generation.last_used);
  generation.last_used = ++uses;
  if (generation.published && generation.weights != nullptr) by_use.emplace(uses, &generation);
}

void AdapterRegistry::State::publish(const AdapterLease& generation) {
  const auto [place, is_new] = names.try_emplace(generation->name, places_used + 1);
  if (is_new) {
    ++places_used;
  } else {
    withdraw(*places.at(place->second));
  }
  places[place->second] = generation;
  generation->published = true;
  touch(*generation);
}

void AdapterRegistry::State::withdraw(AdapterGeneration& generation) {
  generation.published = false;
  stacks.forget(generation);
  by_use.erase(generation.last_used);
}

// ------------------------------------------------------------------------------------------------ loading

LoadedAdapter AdapterRegistry::State::load(const AdapterGeneration& generation, const AdapterFile& file,
                                           AdapterBudget::Reservation reservation) const {
  const auto start = std::chrono::steady_clock::now();
  LoadedAdapter loaded;
  loaded.content_hash = file.content_hash();
  const uint64_t expected = generation.content_hash;
  if (expected != 0 && expected != loaded.content_hash) {
    fail(ErrorCode::kDataCorrupt,
         "LoRA adapter '{}': the files in {} changed on disk since it was loaded; load it again",
         generation.name, generation.path.string());
  }
  auto resident = std::make_shared<ResidentAdapter>();
  resident->reservation = std::move(reservation);
  resident->adapter = file.load(*bases[generation.base].model, backend, bases[generation.base].dtype);
  resident->reservation.resize(resident->adapter->bytes());
  loaded.weights = std::shared_ptr<const Adapter>(resident, resident->adapter.get());
  loaded.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return loaded;
}

void AdapterRegistry::State::load_in_background() {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return stopping || !jobs.empty(); });
    if (stopping) return;
    LoadJob job = std::move(jobs.front());
    jobs.pop_front();
    lock.unlock();
    run_job(std::move(job));
    call_wake();
    lock.lock();
  }
}

void AdapterRegistry::State::run_job(LoadJob job) {
  const AdapterLease generation = job.generation.lock();
  if (generation == nullptr) return;
  std::optional<Error> error;
  LoadedAdapter loaded;
  try {
    loaded = load(*generation, AdapterFile(generation->path, bases[generation->base].model->config),
                  std::move(job.reservation));
  } catch (const Error& problem) {
    error = problem;
  } catch (const std::exception& problem) {
    error = Error(ErrorCode::kInternal, problem.what());
  }
  const std::scoped_lock lock(mutex);
  generation->loading = false;
  generation->load_error = std::move(error);
  if (loaded.weights == nullptr) return;
  generation->bytes = loaded.weights->bytes();
  generation->weights = std::move(loaded.weights);
  generation->content_hash = loaded.content_hash;
  generation->load_seconds = loaded.seconds;
  touch(*generation);
}

void AdapterRegistry::State::call_wake() {
  const std::scoped_lock lock(wake_mutex);
  for (const auto& [number, wake] : wakes) wake();
}

// ----------------------------------------------------------------------------------------------- registry

AdapterRegistry::AdapterRegistry(std::vector<AdapterBase> bases, Backend& backend,
                                 const AdapterRegistryOptions& options)
    : state_(std::make_unique<State>(std::move(bases), backend, options)) {
  state_->loader = std::thread([state = state_.get()] { state->load_in_background(); });
}

AdapterRegistry::~AdapterRegistry() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->loader.join();
}

uint64_t AdapterRegistry::add_wake(std::function<void()> wake) {
  const std::scoped_lock lock(state_->wake_mutex);
  state_->wakes.emplace(++state_->wakes_added, std::move(wake));
  return state_->wakes_added;
}

void AdapterRegistry::remove_wake(uint64_t number) {
  const std::scoped_lock lock(state_->wake_mutex);
  state_->wakes.erase(number);
}

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

void check_stack(std::span<const StackTerm> members, const AdapterBudget& budget) {
  size_t bytes = 0;
  for (const StackTerm& member : members) {
    const std::string& name = member.adapter->name;
    if (!member.adapter->stackable) {
      fail(ErrorCode::kInvalidArgument,
           "LoRA adapter '{}' cannot be combined with others: it has DoRA, biases or whole matrices", name);
    }
    if (member.adapter->base != members.front().adapter->base) {
      fail(ErrorCode::kInvalidArgument,
           "LoRA adapters '{}' and '{}' cannot be combined: they have different base models",
           members.front().adapter->name, name);
    }
    if (!std::isfinite(member.weight))
      fail(ErrorCode::kInvalidArgument, "The weight of LoRA adapter '{}' must be a finite number.", name);
    const auto same = [&](const StackTerm& other) { return other.adapter == member.adapter; };
    if (std::ranges::count_if(members, same) > 1)
      fail(ErrorCode::kInvalidArgument, "LoRA adapter '{}' is given twice; give it one weight", name);
    bytes += member.adapter->bytes;
  }
  const bool too_many = budget.max_count() > 0 && static_cast<int>(members.size()) > budget.max_count();
  if (bytes > budget.max_bytes() || too_many) {
    fail(ErrorCode::kResourceExhausted,
         "The {} LoRA adapters need {} bytes together, more than there is room for ({} bytes)",
         members.size(), bytes, budget.max_bytes());
  }
}

[[noreturn]] void fail_name_taken(const std::string& name) {
  fail(ErrorCode::kAlreadyExists,
       "The lora adapter '{}' has already been loaded. If you want to load the adapter in place, set "
       "'load_inplace' to True.",
       name);
}

/// Two add() of one name run one after the other.
class NameClaim {
 public:
  NameClaim(std::mutex& mutex, std::condition_variable& changed, std::set<std::string>& claimed,
            const std::string& name)
      : mutex_(mutex), changed_(changed), claimed_(claimed), name_(name) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !claimed_.contains(name_); });
    claimed_.insert(name_);
  }
  ~NameClaim() {
    {
      const std::scoped_lock lock(mutex_);
      claimed_.erase(name_);
    }
    changed_.notify_all();
  }
  NameClaim(const NameClaim&) = delete;
  NameClaim& operator=(const NameClaim&) = delete;

 private:
  std::mutex& mutex_;
  std::condition_variable& changed_;
  std::set<std::string>& claimed_;
  const std::string& name_;
};

}  // namespace

void AdapterRegistry::add(const std::string& name, const std::filesystem::path& path, LoadMode mode,
                          bool replace, const std::string& base_model_name) {
  State& state = *state_;
  const NameClaim claim(state.mutex, state.changed, state.adding, name);
  AdapterLease old;
  {
    const std::scoped_lock lock(state.mutex);
    old = state.find(name);
  }
  if (old != nullptr && !replace) fail_name_taken(name);

  const auto [base_index, file] = match_base(path, base_model_name, state.bases);
  const AdapterBase& base = state.bases[base_index];
  check_limits(name, file, base, state.budget->max_bytes());
  const auto generation = std::make_shared<AdapterGeneration>();
  generation->name = name;
  generation->path = path;
  generation->base = base_index;
  generation->base_model_name = parent_name(base, base_model_name);
  generation->rank = file.max_rank();
  generation->vocab_size = file.vocab_size();
  generation->stackable = file.stackable();
  generation->bytes = file.packed_bytes(base.dtype);

  if (mode == LoadMode::kNow) {
    std::optional<AdapterBudget::Reservation> reservation;
    {
      const std::scoped_lock lock(state.mutex);
      reservation = state.reserve(generation->bytes, old.get());
    }
    if (!reservation) {
      fail(ErrorCode::kResourceExhausted,
           "LoRA adapter '{}' needs {} bytes; of the {} bytes for adapters too many are in use by running "
           "requests; try again later",
           name, generation->bytes, state.budget->max_bytes());
    }
    LoadedAdapter loaded = state.load(*generation, file, std::move(*reservation));
    generation->bytes = loaded.weights->bytes();
    generation->weights = std::move(loaded.weights);
    generation->content_hash = loaded.content_hash;
    generation->load_seconds = loaded.seconds;
  }
  {
    const std::scoped_lock lock(state.mutex);
    state.publish(generation);
  }
  state.call_wake();  // room may have changed hands
}

bool AdapterRegistry::remove(std::string_view name) {
  AdapterLease removed;  // freed after the lock
  const std::scoped_lock lock(state_->mutex);
  const auto place = state_->names.find(std::string(name));
  if (place == state_->names.end()) return false;
  removed = std::move(state_->places.at(place->second));
  state_->withdraw(*removed);
  state_->places.erase(place->second);
  state_->names.erase(place);
  return true;
}

AdapterLease AdapterRegistry::lease(std::string_view name) const {
  const std::scoped_lock lock(state_->mutex);
  return state_->find(std::string(name));
}

std::vector<AdapterInfo> AdapterRegistry::list() const {
  const std::scoped_lock lock(state_->mutex);
  std::vector<AdapterInfo> infos;
  infos.reserve(state_->places.size());
  for (const auto& [place, generation] : state_->places) {
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

size_t AdapterRegistry::resident_bytes() const {
  return state_->budget->bytes();
}

int AdapterRegistry::resident_count() const {
  return state_->budget->count();
}

AdapterLease AdapterRegistry::stack(std::span<const StackTerm> members) {
  const std::scoped_lock lock(state_->mutex);
  check_stack(members, *state_->budget);
  return state_->stacks.get(members);
}

AdapterRegistry::Acquired AdapterRegistry::acquire(const AdapterLease& lease) {
  check(lease != nullptr, "the base model has no weights to acquire");
  const std::scoped_lock lock(state_->mutex);
  return state_->acquire(lease);
}

AdapterRegistry::Acquired AdapterRegistry::State::acquire(const AdapterLease& lease) {
  if (!lease->members.empty()) return acquire_stack(*lease);
  if (lease->weights != nullptr) {
    touch(*lease);
    return {Residency::kReady, lease->weights, std::nullopt};
  }
  if (lease->loading) return {Residency::kLoading, nullptr, std::nullopt};
  if (lease->load_error) return {Residency::kFailed, nullptr, std::exchange(lease->load_error, std::nullopt)};
  auto reservation = reserve(lease->bytes, nullptr);
  if (!reservation) return {Residency::kNoRoom, nullptr, std::nullopt};
  lease->loading = true;
  jobs.push_back({lease, std::move(*reservation)});
  changed.notify_all();
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

const std::string& adapter_name(const AdapterLease& lease) {
  return lease->name;
}

const std::filesystem::path& adapter_path(const AdapterLease& lease) {
  return lease->path;
}

std::vector<std::string> adapter_names(const AdapterLease& lease) {
  if (lease->members.empty()) return {lease->name};
  std::vector<std::string> names;
  for (const StackTerm& member : lease->members) names.push_back(member.adapter->name);
  return names;
}

size_t adapter_base(const AdapterLease& lease) {
  return lease->base;
}

int adapter_vocab_size(const AdapterLease& lease, int base_vocab_size) {
  return lease == nullptr || lease->vocab_size == 0 ? base_vocab_size : lease->vocab_size;
}

uint64_t adapter_generation_id(const AdapterLease& lease) {
  return lease == nullptr ? 0 : lease->id;
}

uint64_t adapter_content_hash(const AdapterLease& lease) {
  return lease == nullptr ? 0 : lease->content_hash.load();
}

}  // namespace polylora
