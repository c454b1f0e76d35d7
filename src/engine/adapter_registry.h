// Which adapters exist, which of them are in memory, and who may still need them.
//
//   name -> generation -> lease
//
// A name points to one immutable generation at a time. Loading in place publishes a new generation under the
// same name; unloading removes the name. Requests hold leases on generations, so neither disturbs a running
// request, and a generation's memory is freed when the last lease ends. The weights of a generation are
// resident or on disk: beyond the byte budget, the least recently used weights that no running request holds
// are dropped and read back when needed (and refused if the files no longer have the generation's content
// hash).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/adapter_lease.h"
#include "engine/base_matching.h"
#include "engine/request.h"
#include "io/adapter_file.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

struct AdapterRegistryOptions {
  size_t memory_bytes = 0;  // budget for resident weights
  int max_cpu_loras = 0;    // most adapters resident at once; 0: only the byte budget counts
};

struct AdapterInfo {
  std::string name;
  std::filesystem::path path;
  size_t base = 0;              // index of its base model
  std::string base_model_name;  // as given if that is a name of its base, else the base's first
  uint64_t generation = 0;
  int64_t rank = 0;
  size_t bytes = 0;  // packed
  bool resident = false;
  double load_seconds = -1;  // of the last load; negative: never loaded
};

/// Thread-safe. Loading runs on the registry's own thread (or the caller's, where said).
class AdapterRegistry {
 public:
  /// For the adapters of all of `bases`: one space of names, one budget. The models and `backend` must
  /// outlive it.
  AdapterRegistry(std::vector<AdapterBase> bases, Backend& backend, const AdapterRegistryOptions& options);
  ~AdapterRegistry();

  /// `wake` is called (on the loader thread) whenever a background load ends, well or not, until it is
  /// removed by the number that this returns.
  uint64_t add_wake(std::function<void()> wake);
  void remove_wake(uint64_t number);

  enum class LoadMode : uint8_t {
    kNow,   // read, check and pack everything before returning (what a runtime load does)
    kLazy,  // check config and header only; weights are read on first use
  };
  /// Publishes a generation under `name`, of the base model that match_base() finds. Throws what that throws;
  /// kAlreadyExists when the name is taken and `replace` is false; kResourceExhausted when the rank exceeds
  /// max_lora_rank ("LoRA rank 64 is greater than max_lora_rank 16.") or the adapter alone exceeds the
  /// budget. A failed replace leaves the old generation.
  void add(const std::string& name, const std::filesystem::path& path, LoadMode mode, bool replace,
           const std::string& base_model_name = {});

  /// Removes the name; false when unknown. Running requests finish on their leases.
  bool remove(std::string_view name);

  /// A lease on the current generation; null when the name is unknown.
  AdapterLease lease(std::string_view name) const;

  /// A lease on several adapters at once, W·x + Σ weight·B·(A·x). Throws kInvalidArgument for a member that
  /// is no sum of pairs (DoRA, biases, matrices of its own) or has another base, for weights that are not
  /// finite and for members given twice; kResourceExhausted when the budget cannot hold all members.
  AdapterLease stack(std::span<const StackTerm> members);

  std::vector<AdapterInfo> list() const;  // in order of registration
  size_t resident_bytes() const;
  int resident_count() const;

  // --- for the engine
  enum class Residency : uint8_t { kReady, kLoading, kNoRoom, kFailed };
  struct Acquired {
    Residency residency = Residency::kLoading;
    std::shared_ptr<const Adapter> adapter;  // kReady: stays in memory while the caller holds it
    std::optional<Error> error;              // kFailed
  };
  /// Never blocks on disk: ready at once, or a background load is under way, or everything resident is in
  /// use.
  Acquired acquire(const AdapterLease& lease);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polylora
