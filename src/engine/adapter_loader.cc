#include "engine/adapter_loader.h"

#include <chrono>
#include <exception>
#include <utility>

#include "engine/adapter_generation.h"

namespace polylora {
namespace {

struct BudgetedAdapter {
  AdapterBudget::Reservation reservation;
  std::unique_ptr<const Adapter> adapter;
};

}  // namespace

AdapterLoader::AdapterLoader(std::span<const AdapterBase> bases, Backend& backend,
                             std::function<void(AdapterGeneration&, Result)> settle,
                             std::function<void()> wake)
    : bases_(bases), backend_(backend), settle_(std::move(settle)), wake_(std::move(wake)), thread_([this] {
        work();
      }) {}

AdapterLoader::~AdapterLoader() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

LoadedAdapter AdapterLoader::load(const AdapterGeneration& generation, const AdapterFile& file,
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
  const AdapterBase& base = bases_[generation.base];
  auto budgeted = std::make_shared<BudgetedAdapter>();
  budgeted->reservation = std::move(reservation);
  budgeted->adapter = file.load(*base.model, backend_, base.dtype);
  budgeted->reservation.resize(budgeted->adapter->bytes());
  loaded.weights = std::shared_ptr<const Adapter>(budgeted, budgeted->adapter.get());
  loaded.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return loaded;
}

void AdapterLoader::queue(const AdapterLease& generation, AdapterBudget::Reservation reservation) {
  {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back({generation, std::move(reservation)});
  }
  changed_.notify_one();
}

void AdapterLoader::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    run(std::move(job));
    wake_();
    lock.lock();
  }
}

void AdapterLoader::run(Job job) {
  const AdapterLease generation = job.generation.lock();
  if (generation == nullptr) return;
  Result result = try_load(*generation, std::move(job.reservation));
  settle_(*generation, std::move(result));
}

AdapterLoader::Result AdapterLoader::try_load(const AdapterGeneration& generation,
                                              AdapterBudget::Reservation reservation) const {
  try {
    const AdapterFile file(generation.path, bases_[generation.base].model->config);
    return load(generation, file, std::move(reservation));
  } catch (const Error& problem) {
    return problem;
  } catch (const std::exception& problem) {
    return Error(ErrorCode::kInternal, problem.what());
  }
}

}  // namespace polylora
