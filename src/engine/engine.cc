#include "engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "engine/engine_core.h"
#include "engine/request_check.h"

namespace polylora {
namespace {

// With requests that wait for an adapter's weights, time itself may change the plan (ageing): look again.
constexpr std::chrono::milliseconds kLookAgain{20};

}  // namespace

/// The door between other threads and the engine thread: a queue in, counters out.
class Engine::Impl {
 public:
  Impl(const Model& model, Backend& backend, AdapterRegistry& registry, const EngineOptions& options,
       std::shared_ptr<ComputeTurns> turns)
      : config_(model.config),
        registry_(registry),
        options_(checked_options(options, model.config)),
        core_(model, backend, registry, options_),
        turns_(std::move(turns)) {
    wake_number_ = registry_.add_wake([this] { wake(); });
    thread_ = std::thread([this] { loop(); });
  }

  ~Impl() {
    registry_.remove_wake(wake_number_);
    {
      const std::scoped_lock lock(mutex_);
      closed_ = stopping_ = true;
    }
    arrived_.notify_all();
    thread_.join();
  }

  uint64_t submit(Request request) {
    check_request(request, options_, config_);
    auto sequence = std::make_unique<Sequence>();
    sequence->adapter = adapter_generation_id(request.adapter);
    sequence->arrived = EngineClock::now();
    sequence->tokens = std::move(request.prompt);
    sequence->prompt_size = sequence->size();
    const auto wanted = int64_t{sequence->prompt_size} + request.sampling.max_tokens;
    sequence->max_size = static_cast<int>(std::min<int64_t>(wanted, options_.max_model_len));
    if (request.sampling.prompt_logprobs >= 0) {
      sequence->prompt_logprobs.resize(1);  // nothing precedes position 0
      sequence->reuse_prefix = sequence->prompt_size == 1;
    }
    sequence->request = std::move(request);
    return enqueue(std::move(sequence));
  }

  void cancel(uint64_t number) {
    {
      const std::scoped_lock lock(mutex_);
      inbox_.cancelled.push_back(number);
    }
    arrived_.notify_one();
  }

  void drain(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    closed_ = true;
    const auto all_ended = [this] { return ended_ == accepted_; };
    if (idle_.wait_for(lock, timeout, all_ended)) return;
    inbox_.abort_all = true;
    arrived_.notify_one();
    idle_.wait(lock, all_ended);
  }

  EngineStats stats() const {
    EngineStats stats = core_.stats();
    const std::scoped_lock lock(mutex_);
    stats.waiting += static_cast<int>(inbox_.submitted.size());
    return stats;
  }

  const EngineOptions& options() const { return options_; }
  const EngineCore& core() const { return core_; }

 private:
  struct Inbox {
    std::vector<std::unique_ptr<Sequence>> submitted;
    std::vector<uint64_t> cancelled;
    bool abort_all = false;
    bool woken = false;

    bool empty() const { return submitted.empty() && cancelled.empty() && !abort_all && !woken; }
  };

  uint64_t enqueue(std::unique_ptr<Sequence> sequence) {
    std::unique_lock lock(mutex_);
    if (closed_) fail(ErrorCode::kUnavailable, "The server is shutting down.");
    if (waiting_ + static_cast<int>(inbox_.submitted.size()) >= options_.max_num_queued_reqs) {
      fail(ErrorCode::kUnavailable, "The server is overloaded: {} requests are waiting. Try again later.",
           options_.max_num_queued_reqs);
    }
    const uint64_t number = ++accepted_;
    sequence->number = number;
    sequence->sampling_key = sequence->request.sampling.seed.value_or(random_bits(options_.seed, number, 0));
    inbox_.submitted.push_back(std::move(sequence));
    lock.unlock();
    arrived_.notify_one();
    return number;
  }

  void wake() {
    {
      const std::scoped_lock lock(mutex_);
      inbox_.woken = true;
    }
    arrived_.notify_one();
  }

  void loop() {
    ComputeTurns::Seat seat(turns_);
    bool more = false;
    while (wait_for_work(more)) {
      seat.take();
      take_inbox();  // with what came during the others' steps
      more = core_.step() && core_.unfinished() > 0;
      seat.pass(more);
    }
    take_inbox();  // nothing comes any more
    core_.abort_all();
    publish_progress();
  }

  /// False when the engine is to stop.
  bool wait_for_work(bool more) {
    publish_progress();
    std::unique_lock lock(mutex_);
    const auto called = [this] { return stopping_ || !inbox_.empty(); };
    if (core_.unfinished() == 0) {
      arrived_.wait(lock, called);
    } else if (!more) {
      arrived_.wait_for(lock, kLookAgain, called);
    }
    return !stopping_;
  }

  /// Hands to the core what other threads left.
  void take_inbox() {
    Inbox inbox;
    {
      const std::scoped_lock lock(mutex_);
      inbox = std::exchange(inbox_, {});
      waiting_ += static_cast<int>(inbox.submitted.size());
    }
    for (auto& sequence : inbox.submitted) core_.accept(std::move(sequence));
    for (const uint64_t number : inbox.cancelled) core_.abort(number);
    if (inbox.abort_all) core_.abort_all();
  }

  void publish_progress() {
    const std::scoped_lock lock(mutex_);
    waiting_ = core_.waiting();
    ended_ = core_.ended();
    if (ended_ == accepted_) idle_.notify_all();
  }

  const ModelConfig& config_;
  AdapterRegistry& registry_;
  const EngineOptions options_;
  EngineCore core_;
  const std::shared_ptr<ComputeTurns> turns_;
  uint64_t wake_number_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable arrived_;  // something for the engine thread
  std::condition_variable idle_;     // every accepted request ended
  Inbox inbox_;
  uint64_t accepted_ = 0, ended_ = 0;
  int waiting_ = 0;
  bool closed_ = false, stopping_ = false;

  std::thread thread_;
};

Engine::Engine(const Model& model, Backend& backend, AdapterRegistry& registry, const EngineOptions& options,
               std::shared_ptr<ComputeTurns> turns)
    : impl_(std::make_unique<Impl>(model, backend, registry, options, std::move(turns))) {}

Engine::~Engine() = default;

const EngineOptions& Engine::options() const {
  return impl_->options();
}

uint64_t Engine::submit(Request request) {
  return impl_->submit(std::move(request));
}

void Engine::cancel(uint64_t number) {
  impl_->cancel(number);
}

void Engine::drain(std::chrono::milliseconds timeout) {
  impl_->drain(timeout);
}

EngineStats Engine::stats() const {
  return impl_->stats();
}

size_t Engine::activation_bytes() const {
  return impl_->core().activation_bytes();
}

size_t Engine::kv_cache_bytes() const {
  return impl_->core().kv_cache_bytes();
}

}  // namespace polylora
