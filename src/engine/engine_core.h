// One step after another: schedule -> run -> sample -> report. Everything here belongs to the engine thread,
// except stats().
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "engine/adapter_registry.h"
#include "engine/engine.h"
#include "engine/kv_pages.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "model/forward.h"

namespace polylora {

class EngineCore {
 public:
  /// `options` with defaults filled in.
  EngineCore(const Model& model, Backend& backend, AdapterRegistry& registry, const EngineOptions& options);

  void accept(std::unique_ptr<Sequence> sequence);
  void abort(uint64_t number);  // unknown numbers are ignored
  void abort_all();

  /// Runs a step and delivers its events. False when nothing could run. Never throws: what goes wrong ends
  /// the requests of this step with kError.
  bool step();

  int waiting() const { return scheduler_.waiting(); }
  int unfinished() const { return static_cast<int>(sequences_.size()); }
  uint64_t ended() const { return ended_; }  // terminal events delivered

  EngineStats stats() const;  // any thread
  size_t activation_bytes() const { return forward_.bytes() + logits_buffer_.size(); }
  size_t kv_cache_bytes() const { return cache_->bytes(); }

 private:
  struct Delivery {
    Sequence* sequence = nullptr;
    std::unique_ptr<Sequence> owner;  // with the terminal event
    Event event;
  };

  // The four verbs.
  const Plan& schedule(EngineClock::time_point now);
  void run(const Plan& plan);
  void sample(const Plan& plan);
  void report(const Plan& plan);

  Mat logits_rows(int64_t rows, int vocab_size);
  int vocab_size_of(const Sequence& sequence) const;
  std::span<const int32_t> eos_ids_of(const Sequence& sequence) const;
  void score_prompt(const Plan::Entry& entry, int row_begin);
  void take_token(Sequence& sequence, TokenOutput output, EngineClock::time_point now);
  void fail_step(const Plan* plan, const Error& error);
  void end(Sequence& sequence, Finish finish, Event event = {});
  void deliver();

  const Model& model_;
  const EngineOptions options_;
  std::unique_ptr<KvCache> cache_;
  KvPages pages_;
  Scheduler scheduler_;
  ForwardPass forward_;
  Sampler sampler_;
  HugeBuffer logits_buffer_;
  const std::vector<int32_t> eos_ids_;

  std::unordered_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by number
  std::vector<Delivery> outbox_;
  uint64_t ended_ = 0;

  // Of the current step, kept for their memory.
  Batch batch_;
  std::vector<int32_t> sampled_rows_;
  std::vector<SamplingInput> inputs_;
  std::vector<TokenOutput> outputs_;
  std::vector<std::vector<TokenLogprob>> scores_;

  mutable std::mutex mutex_;  // what stats() reads: the scheduler's and the pages' bookkeeping, counters_
  EngineStats counters_;
};

}  // namespace polylora
