#include "engine/logits_processors.h"

#include <algorithm>
#include <utility>

#include "engine/row_math.h"

namespace polylora {
namespace {

using row_math::kMasked;

void mask(std::span<float> logits, std::span<const int32_t> ids) {
  for (const int32_t id : ids) logits[static_cast<size_t>(id)] = kMasked;
}

/// Masks the last token of every sequence whose other tokens are the end of the output.
void mask_bad_words(std::span<float> logits, const SamplingInput& input) {
  for (const std::vector<int32_t>& word : input.params->bad_words_token_ids) {
    if (word.empty() || word.size() > input.output.size() + 1) continue;
    const auto prefix = std::span(word).first(word.size() - 1);
    if (std::ranges::equal(prefix, input.output.last(prefix.size()))) mask(logits, std::span(word).last(1));
  }
}

}  // namespace

void LogitsProcessors::apply(std::span<float> logits, const SamplingInput& input) {
  const SamplingParams& params = *input.params;
  const bool goes_on = input.constraint == nullptr || constrain(logits, input);
  if (!params.allowed_token_ids.empty()) keep_allowed(logits, params.allowed_token_ids);
  mask_bad_words(logits, input);
  if (goes_on && static_cast<int64_t>(input.output.size()) < params.min_tokens) {
    mask(logits, input.eos_ids);
    mask(logits, params.stop_token_ids);
  }
  for (const auto& [id, bias] : params.logit_bias) logits[static_cast<size_t>(id)] += bias;
  if (params.repetition_penalty != 1.0f) penalise_repetition(logits, input);
  if (params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f) penalise_output(logits, input);
}

bool LogitsProcessors::constrain(std::span<float> logits, const SamplingInput& input) {
  const std::shared_ptr<const TokenMask> allowed = input.constraint->allowed();
  const bool may_end = input.constraint->may_end();
  saved_.clear();
  for (const int32_t id : input.eos_ids) saved_.push_back(logits[static_cast<size_t>(id)]);
  bool any = false;
  for (size_t begin = 0; begin < logits.size(); begin += 64) {
    const uint64_t word = begin / 64 < allowed->size() ? (*allowed)[begin / 64] : 0;
    any = any || word != 0;
    if (word == ~uint64_t{0}) continue;
    const size_t end = std::min(begin + 64, logits.size());
    for (size_t id = begin; id < end; ++id)
      if ((word >> (id - begin) & 1) == 0) logits[id] = kMasked;
  }
  for (size_t i = 0; i < input.eos_ids.size(); ++i)
    logits[static_cast<size_t>(input.eos_ids[i])] = may_end ? saved_[i] : kMasked;
  return any;
}

void LogitsProcessors::keep_allowed(std::span<float> logits, std::span<const int32_t> allowed) {
  saved_.clear();
  for (const int32_t id : allowed) saved_.push_back(logits[static_cast<size_t>(id)]);
  std::ranges::fill(logits, kMasked);
  for (size_t i = 0; i < allowed.size(); ++i) logits[static_cast<size_t>(allowed[i])] = saved_[i];
}

void LogitsProcessors::penalise_repetition(std::span<float> logits, const SamplingInput& input) {
  const float penalty = input.params->repetition_penalty;
  for (const auto tokens : {input.prompt, input.output}) {
    for (const int32_t token : tokens) {
      const auto id = static_cast<size_t>(token);
      if (counts_[id]++ > 0) continue;
      logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
  }
  for (const auto tokens : {input.prompt, input.output}) {
    for (const int32_t token : tokens) counts_[static_cast<size_t>(token)] = 0;
  }
}

void LogitsProcessors::penalise_output(std::span<float> logits, const SamplingInput& input) {
  const SamplingParams& params = *input.params;
  for (const int32_t token : input.output) ++counts_[static_cast<size_t>(token)];
  for (const int32_t token : input.output) {
    const auto id = static_cast<size_t>(token);
    const int32_t count = std::exchange(counts_[id], 0);
    if (count == 0) continue;  // seen earlier in this loop
    logits[id] -= params.frequency_penalty * static_cast<float>(count);
    logits[id] -= params.presence_penalty;
  }
}

}  // namespace polylora
