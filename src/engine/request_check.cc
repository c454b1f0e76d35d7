#include "engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "engine/adapter_lease.h"

namespace polylora {
namespace {

constexpr int kDefaultQueueLimit = 4096;

template <typename... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(ErrorCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

bool all_in_vocabulary(std::span<const int32_t> ids, int vocab_size) {
  return std::ranges::all_of(ids, [=](int32_t id) { return id >= 0 && id < vocab_size; });
}

// The comparisons are written such that NaN fails them.
void check_sampling(const SamplingParams& p) {
  require(p.temperature >= 0 && std::isfinite(p.temperature), "temperature must be non-negative, got {}.",
          p.temperature);
  require(p.top_p > 0 && p.top_p <= 1, "top_p must be in (0, 1], got {}.", p.top_p);
  require(p.top_k >= -1, "top_k must be 0 (disable), or at least 1, got {}.", p.top_k);
  require(p.min_p >= 0 && p.min_p <= 1, "min_p must be in [0, 1], got {}.", p.min_p);
  require(p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty),
          "repetition_penalty must be greater than zero, got {}.", p.repetition_penalty);
  require(std::abs(p.presence_penalty) <= 2, "presence_penalty must be in [-2, 2], got {}.",
          p.presence_penalty);
  require(std::abs(p.frequency_penalty) <= 2, "frequency_penalty must be in [-2, 2], got {}.",
          p.frequency_penalty);
  require(p.max_tokens >= 1, "max_tokens must be at least 1, got {}.", p.max_tokens);
  require(p.min_tokens >= 0, "min_tokens must be greater than or equal to 0, got {}.", p.min_tokens);
  require(p.min_tokens <= p.max_tokens, "min_tokens must be less than or equal to max_tokens={}, got {}.",
          p.max_tokens, p.min_tokens);
  require(p.logprobs >= -1, "logprobs must be non-negative or -1, got {}.", p.logprobs);
  require(p.prompt_logprobs >= -1, "prompt_logprobs must be non-negative or -1, got {}.", p.prompt_logprobs);
}

void check_token_lists(const SamplingParams& p, int vocab_size) {
  require(all_in_vocabulary(p.stop_token_ids, vocab_size),
          "stop_token_ids contains out-of-vocab token ids. Vocabulary size: {}", vocab_size);
  require(all_in_vocabulary(p.allowed_token_ids, vocab_size),
          "allowed_token_ids contains out-of-vocab token id!");
  for (const auto& [id, bias] : p.logit_bias) {
    require(id >= 0 && id < vocab_size,
            "token_id {} in logit_bias is out of the vocabulary. Vocabulary size: {}", id, vocab_size);
    require(std::isfinite(bias), "logit_bias of token_id {} must be a finite number.", id);
  }
  for (const std::vector<int32_t>& word : p.bad_words_token_ids) {
    require(all_in_vocabulary(word, vocab_size),
            "bad_words contain out-of-vocab token ids. Vocabulary size: {}", vocab_size);
  }
}

void check_prompt(const Request& request, int max_model_len, int vocab_size) {
  const auto size = static_cast<int64_t>(request.prompt.size());
  require(size > 0, "The decoder prompt cannot be empty");
  require(size < max_model_len,
          "This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the "
          "messages, {} in the completion). Please reduce the length of the messages or completion.",
          max_model_len, size + request.sampling.max_tokens, size, request.sampling.max_tokens);
  for (const int32_t id : request.prompt) {
    require(id >= 0 && id < vocab_size, "Token id {} is out of vocabulary", id);
  }
}

}  // namespace

EngineOptions checked_options(EngineOptions options, const ModelConfig& config) {
  const int trained = config.max_position_embeddings;
  if (options.max_model_len == 0) options.max_model_len = trained;
  if (options.max_num_queued_reqs == 0) options.max_num_queued_reqs = kDefaultQueueLimit;
  require(options.max_model_len > 1, "--max-model-len must be at least 2, got {}", options.max_model_len);
  require(options.max_model_len <= trained,
          "--max-model-len {} is greater than the {} positions that the model was trained for",
          options.max_model_len, trained);
  require(options.max_num_seqs >= 1, "--max-num-seqs must be at least 1, got {}", options.max_num_seqs);
  require(options.max_num_batched_tokens >= options.max_num_seqs,
          "--max-num-batched-tokens ({}) must be greater than or equal to --max-num-seqs ({})",
          options.max_num_batched_tokens, options.max_num_seqs);
  require(options.enable_chunked_prefill || options.max_num_batched_tokens >= options.max_model_len,
          "--max-num-batched-tokens ({}) is smaller than --max-model-len ({}); without chunked prefill the "
          "longest prompts could never run",
          options.max_num_batched_tokens, options.max_model_len);
  require(options.max_loras >= 0, "--max-loras must not be negative, got {}", options.max_loras);
  require(options.max_num_queued_reqs > 0, "--max-num-queued-reqs must be positive, got {}",
          options.max_num_queued_reqs);
  require(options.max_adapter_wait_s >= 0, "the adapter wait must not be negative, got {}",
          options.max_adapter_wait_s);
  return options;
}

void check_request(const Request& request, const EngineOptions& options, const ModelConfig& config) {
  const int vocab_size = adapter_vocab_size(request.adapter, config.vocab_size);
  require(request.constraint == nullptr || !config.eos_token_ids.empty() || !request.eos_token_ids.empty(),
          "structured output needs a model that has an end-of-sequence token");
  check_sampling(request.sampling);
  check_token_lists(request.sampling, vocab_size);
  check_prompt(request, options.max_model_len, vocab_size);
}

}  // namespace polylora
