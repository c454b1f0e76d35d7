// What goes into the engine and what comes out: tokens only. Text lives in text/ and serve/.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/token_constraint.h"

namespace polylora {

class AdapterGeneration;
/// Pins one generation of an adapter: a request keeps it through reload and unload. Null = the base model.
using AdapterLease = std::shared_ptr<AdapterGeneration>;

/// One of the adapters that a stack adds to the base model, times its weight.
struct StackTerm {
  AdapterLease adapter;
  float weight = 1.0f;

  bool operator==(const StackTerm&) const = default;
};

/// Names, meanings and defaults are vLLM's SamplingParams.
struct SamplingParams {
  float temperature = 1.0f;  // < 1e-5: greedy
  float top_p = 1.0f;
  int top_k = 0;  // <= 0: off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::optional<uint64_t> seed;
  int max_tokens = 16;
  int min_tokens = 0;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;                 // empty: all
  std::vector<std::vector<int32_t>> bad_words_token_ids;  // sequences that must not be completed
  int logprobs = -1;         // -1: none; 0: the sampled token; k: and the k most likely
  int prompt_logprobs = -1;  // likewise for prompt tokens
};

/// Log-probability under the unmodified softmax of the logits (vLLM's raw_logprobs); rank 1 = most likely.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
  int32_t rank = 0;
};

/// A generated token; `logprobs` holds the token itself first, then the most likely ones, when asked for.
struct TokenOutput {
  int32_t id = 0;
  std::vector<TokenLogprob> logprobs;
};

enum class FinishReason : uint8_t { kStop, kLength, kAbort, kError };

/// Times since the request arrived, in seconds; negative: never happened.
struct RequestTimes {
  double queued = -1;  // until first scheduled
  double first_token = -1;
  double finished = -1;
};

struct Finish {
  FinishReason reason = FinishReason::kStop;
  std::optional<int32_t> stop_token_id;  // a stop_token_ids member ended it (not eos)
  std::optional<Error> error;            // for kError
  int prompt_tokens = 0;
  int cached_tokens = 0;  // of the prompt, from the prefix cache
  int completion_tokens = 0;
  int preemptions = 0;
  RequestTimes times;
};

struct Event {
  std::vector<TokenOutput> tokens;  // new since the last event
  /// On the first event of a request that asked: one entry per prompt position, empty for position 0.
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  std::optional<Finish> finish;  // on the last event, exactly once per accepted request
};

/// Called on the engine thread, in order; must neither block nor throw.
using EventSink = std::function<void(Event&&)>;

struct Request {
  std::vector<int32_t> prompt;  // token ids, not empty
  SamplingParams sampling;
  AdapterLease adapter;                // null: base model
  std::vector<int32_t> eos_token_ids;  // end the request; empty: the model's
  /// Of this request alone; null: any tokens. With one, an end-of-sequence token ends the output, whatever
  /// ignore_eos and min_tokens say.
  std::shared_ptr<TokenConstraint> constraint;
  int priority = 0;  // with the priority policy: lower runs first
  EventSink sink;
};

}  // namespace polylora
