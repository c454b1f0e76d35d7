// The engine: requests in, tokens out. One thread plans, computes, samples and reports, step after step.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/compute_turns.h"
#include "engine/request.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

struct EngineOptions {
  int max_num_seqs = 128;             // requests computed at once
  int max_num_batched_tokens = 2048;  // rows of one step
  int max_model_len = 0;              // prompt + output of one request; 0: what the model was trained for
  size_t kv_cache_bytes = 0;          // page pool; must hold at least one request of max_model_len
  DType kv_cache_dtype = DType::kBf16;
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  int max_loras = 0;            // distinct adapters in one step; 0: any
  int max_num_queued_reqs = 0;  // beyond it submit() throws kUnavailable; 0: 4096
  bool priority_scheduling = false;
  double max_adapter_wait_s = 2.0;  // ageing bound of the fair scheduler
  uint64_t seed = 0;
};

/// A snapshot for /metrics; counters only grow.
struct EngineStats {
  int running = 0;
  int waiting = 0;              // all
  int waiting_for_adapter = 0;  // of them: whose adapter is being loaded or has no room
  double kv_cache_usage = 0;    // fraction of pages held by requests
  int kv_pages = 0;
  std::vector<std::string> running_adapters;  // distinct names
  std::vector<std::string> waiting_adapters;
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;  // computed or taken from the cache
  uint64_t generation_tokens = 0;
  uint64_t prefix_cache_queries = 0;  // tokens
  uint64_t prefix_cache_hits = 0;
  uint64_t preemptions = 0;
  double step_seconds = 0;  // busy time
};

/// submit, cancel, stats and drain may be called from any thread.
class Engine {
 public:
  /// `model`, `backend` and `registry` must outlive the engine; engines of one backend share `turns`. Throws
  /// kInvalidArgument / kResourceExhausted when the options cannot work (say, kv_cache_bytes smaller than one
  /// request of max_model_len), naming the flag.
  Engine(const Model& model, Backend& backend, AdapterRegistry& registry, const EngineOptions& options,
         std::shared_ptr<ComputeTurns> turns = std::make_shared<ComputeTurns>());
  /// Ends every request with kAbort.
  ~Engine();

  const EngineOptions& options() const;  // with defaults filled in

  /// Accepts a request and returns its number. Throws kInvalidArgument (empty or too long prompt, token id
  /// out of range, …; messages as vLLM's) or kUnavailable (queue full, draining). An accepted request gets
  /// exactly one terminal event.
  uint64_t submit(Request request);

  /// The client left: the request ends soon with kAbort (unless it already ended). Unknown numbers are
  /// ignored.
  void cancel(uint64_t number);

  /// Refuses new requests and waits until the accepted ones ended, at most `timeout`; what is left is
  /// aborted.
  void drain(std::chrono::milliseconds timeout);

  EngineStats stats() const;

  size_t activation_bytes() const;
  size_t kv_cache_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polylora
