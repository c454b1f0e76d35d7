#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

// Long enough to bridge the gap between two ops of a model step, short enough that an idle process costs
// nothing.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kPollsPerClockRead = 32;

void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Polls until done() or until kSpin has passed; returns done().
template <typename Done>
bool spin_until(Done done) {
  for (int i = 0; i < kPollsPerClockRead; ++i) {
    if (done()) return true;
    cpu_relax();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPollsPerClockRead; ++i) {
      if (done()) return true;
      cpu_relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

constexpr size_t kCacheLine = 64;

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : size(threads) {}

  const int size;
  std::vector<std::thread> workers;

  // Written by the caller before `epoch` is raised, read by workers after they see it raised.
  RawBody body = nullptr;  // null = leave
  void* context = nullptr;

  alignas(kCacheLine) std::atomic<uint32_t> epoch{0};  // one per run(); workers sleep on it
  alignas(kCacheLine) std::atomic<int> working{
      0};  // workers that have not finished this run(); the caller sleeps on it
  alignas(kCacheLine) std::atomic<int> arrived{0};             // members inside the current barrier
  alignas(kCacheLine) std::atomic<uint32_t> barrier_phase{0};  // raised by the last member to arrive

  void start(RawBody new_body, void* new_context) {
    body = new_body;
    context = new_context;
    working.store(size - 1, std::memory_order_relaxed);
    epoch.fetch_add(1);
    epoch.notify_all();
  }

  void worker_loop(int member) {
    for (uint32_t seen = 0;; ++seen) {
      const auto raised = [&] { return epoch.load(std::memory_order_acquire) != seen; };
      if (!spin_until(raised)) {
        while (!raised()) epoch.wait(seen, std::memory_order_acquire);
      }
      if (body == nullptr) return;
      body(context, member);
      if (working.fetch_sub(1) == 1) working.notify_one();
    }
  }

  void wait_for_workers() {
    const auto done = [&] { return working.load(std::memory_order_acquire) == 0; };
    if (spin_until(done)) return;
    for (int left; (left = working.load(std::memory_order_acquire)) != 0;) working.wait(left);
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>(threads > 0 ? threads : usable_cpus())) {
  check(threads >= 0, "a thread pool has at least one thread");
  for (int member = 1; member < state_->size; ++member) {
    state_->workers.emplace_back([state = state_.get(), member] { state->worker_loop(member); });
  }
}

ThreadPool::~ThreadPool() {
  state_->start(nullptr, nullptr);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const {
  return state_->size;
}

void ThreadPool::run_raw(RawBody body, void* context) {
  if (state_->size == 1) {
    body(context, 0);
    return;
  }
  state_->start(body, context);
  body(context, 0);
  state_->wait_for_workers();
}

void ThreadPool::barrier() {
  if (state_->size == 1) return;
  const uint32_t phase = state_->barrier_phase.load(std::memory_order_relaxed);
  if (state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == state_->size) {
    state_->arrived.store(0, std::memory_order_relaxed);
    state_->barrier_phase.store(phase + 1, std::memory_order_release);
    return;
  }
  const auto released = [&] { return state_->barrier_phase.load(std::memory_order_acquire) != phase; };
  if (spin_until(released)) return;
  while (!released()) sched_yield();  // a member lost its CPU: let it have ours
}

}  // namespace polylora
