// How the weights of a generation come into memory: on the caller's thread, or queued for a thread of its
// own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <variant>

#include "base/error.h"
#include "engine/adapter_budget.h"
#include "engine/base_matching.h"
#include "engine/request.h"
#include "io/adapter_file.h"
#include "model/adapter.h"
#include "ops/backend.h"

namespace polylora {

struct LoadedAdapter {
  std::shared_ptr<const Adapter> weights;  // with their share of the budget: both go with the last user
  uint64_t content_hash = 0;
  double seconds = 0;
};

/// Thread-safe. Takes no lock of the registry's, but for what the two functions that it calls take.
class AdapterLoader {
 public:
  using Result = std::variant<LoadedAdapter, Error>;

  /// On the loader's thread, `settle` gets the result of each queued load and then `wake` is called, the
  /// latter for a load that nobody wanted any more too. `bases` and `backend` outlive this.
  AdapterLoader(std::span<const AdapterBase> bases, Backend& backend,
                std::function<void(AdapterGeneration&, Result)> settle, std::function<void()> wake);
  /// Finishes the load that is under way; those in the queue are dropped.
  ~AdapterLoader();

  /// Reads, checks and packs `file`, which is the generation's. Throws what that throws, and kDataCorrupt
  /// when the files are not those that the generation had when it was first loaded.
  LoadedAdapter load(const AdapterGeneration& generation, const AdapterFile& file,
                     AdapterBudget::Reservation reservation) const;

  /// Opens the files again and loads them in the background, unless the last lease is gone by then.
  void queue(const AdapterLease& generation, AdapterBudget::Reservation reservation);

 private:
  struct Job {
    std::weak_ptr<AdapterGeneration> generation;
    AdapterBudget::Reservation reservation;
  };
  void work();
  void run(Job job);
  Result try_load(const AdapterGeneration& generation, AdapterBudget::Reservation reservation) const;

  const std::span<const AdapterBase> bases_;
  Backend& backend_;
  const std::function<void(AdapterGeneration&, Result)> settle_;
  const std::function<void()> wake_;

  std::mutex mutex_;
  std::condition_variable changed_;  // a job was queued, or stopping
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace polylora
