// One request on its way through the engine.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/kv_pages.h"
#include "engine/request.h"

namespace polylora {

using EngineClock = std::chrono::steady_clock;

/// Owned by EngineCore; the scheduler moves it between waiting and running.
struct Sequence {
  uint64_t number = 0;   // also the order of arrival
  uint64_t adapter = 0;  // generation id, 0 = base model: the unit of fairness
  Request request;       // its prompt has moved to `tokens`
  int prompt_size = 0;
  int max_size = 0;             // prompt + output never grow beyond it
  std::vector<int32_t> tokens;  // prompt, then what was sampled

  // --- the scheduler's
  PageTable table;
  int computed = 0;  // leading tokens whose keys and values are in `table`
  int granted = 0;   // rows in the current plan
  int charged = 0;   // leading tokens that the adapter has paid for
  bool running = false;
  bool reuse_prefix = true;  // false while logits of cached positions are wanted too
  int cached_tokens = -1;    // of the prompt, when first admitted; negative: never admitted
  int preemptions = 0;
  EngineClock::time_point waiting_since;

  // --- EngineCore's
  uint64_t sampling_key = 0;
  bool ended = false;  // its terminal event is on the way
  EngineClock::time_point arrived, first_scheduled, first_token;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // filled from the front, delivered once

  int size() const { return static_cast<int>(tokens.size()); }
  int output_size() const { return size() - prompt_size; }
  /// Rows until the next token can be sampled: 1 while decoding.
  int remaining() const { return size() - computed; }
};

}  // namespace polylora
