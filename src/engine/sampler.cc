#include "engine/sampler.h"

#include <atomic>
#include <exception>
#include <mutex>

#include "base/rng.h"
#include "engine/row_math.h"

namespace polylora {
namespace {

// Waking threads has to be worth it. A row costs one pass over its logits; with a softmax over all of them
// about eight.
constexpr int64_t kPassesOfSoftmax = 8;
constexpr int64_t kPassesOfMask = 20;  // one that was not asked for before
constexpr int64_t kLogitsWorthThreads = int64_t{1} << 21;

std::span<float> row_of(Mat logits, int64_t row) {
  return {logits.row(row), static_cast<size_t>(logits.cols)};
}

std::span<const float> row_of(ConstMat logits, int64_t row) {
  return {logits.row(row), static_cast<size_t>(logits.cols)};
}

bool is_greedy(const SamplingParams& params) {
  return params.temperature < kGreedyTemperature;
}

int64_t passes_for(const SamplingParams& params) {
  const bool narrowed = is_greedy(params) || params.top_k > 0 || params.min_p > 0;
  return narrowed && params.logprobs < 0 ? 1 : kPassesOfSoftmax;
}

}  // namespace

Sampler::Workspace::Workspace(int vocab_size)
    : processors(vocab_size),
      distribution(vocab_size),
      logprobs(vocab_size),
      maxima(row_math::blocks(static_cast<size_t>(vocab_size))) {}

int32_t Sampler::Workspace::most_likely(std::span<const float> logits) {
  row_math::block_maxima(logits, maxima);
  return row_math::argmax(logits, maxima);
}

int32_t Sampler::Workspace::draw(std::span<float> logits, const SamplingInput& input) {
  processors.apply(logits, input);
  if (is_greedy(*input.params)) return most_likely(logits);
  distribution.build(logits, *input.params);
  return distribution.draw(random_uniform(input.key, 0, input.output.size()));
}

Sampler::Sampler(int vocab_size, int threads) : vocab_size_(vocab_size), pool_(threads) {
  for (int i = 0; i < pool_.size(); ++i) workspaces_.emplace_back(vocab_size);
}

void Sampler::reserve(int vocab_size) {
  if (vocab_size <= vocab_size_) return;
  vocab_size_ = vocab_size;
  for (Workspace& workspace : workspaces_) workspace = Workspace(vocab_size);
}

void Sampler::sample(Mat logits, std::span<const SamplingInput> inputs, std::span<TokenOutput> outputs) {
  int64_t passes = 0;
  for (const SamplingInput& input : inputs)
    passes += passes_for(*input.params) + (input.constraint != nullptr ? kPassesOfMask : 0);
  const bool threaded = passes * logits.cols >= kLogitsWorthThreads;
  for_each_row(static_cast<int64_t>(inputs.size()), threaded, [&](Workspace& workspace, int64_t row) {
    const SamplingInput& input = inputs[static_cast<size_t>(row)];
    TokenOutput& output = outputs[static_cast<size_t>(row)];
    const int64_t vocab_size = input.vocab_size > 0 ? input.vocab_size : logits.cols;
    const std::span<float> values = row_of(logits, row).first(static_cast<size_t>(vocab_size));
    const int wanted = input.params->logprobs;
    if (wanted < 0) {
      output.id = workspace.draw(values, input);
      return;
    }
    // Log-probabilities are of the unmodified logits, but which token they are for is known only afterwards.
    workspace.original.assign(values.begin(), values.end());
    output.id = workspace.draw(values, input);
    output.logprobs = workspace.logprobs.of(workspace.original, output.id, wanted);
  });
}

void Sampler::logprobs(ConstMat logits, std::span<const int32_t> tokens, int top,
                       std::span<std::vector<TokenLogprob>> outputs) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const bool threaded = rows * kPassesOfSoftmax * logits.cols >= kLogitsWorthThreads;
  for_each_row(rows, threaded, [&](Workspace& workspace, int64_t row) {
    const auto at = static_cast<size_t>(row);
    outputs[at] = workspace.logprobs.of(row_of(logits, row), tokens[at], top);
  });
}

std::vector<double> Sampler::probabilities(std::span<float> logits, const SamplingInput& input) {
  Workspace& workspace = workspaces_.front();
  workspace.processors.apply(logits, input);
  if (is_greedy(*input.params)) {
    std::vector<double> result(logits.size(), 0.0);
    result[static_cast<size_t>(workspace.most_likely(logits))] = 1.0;
    return result;
  }
  workspace.distribution.build(logits, *input.params);
  return workspace.distribution.probabilities();
}

/// Rows are handed out one by one, since they differ in cost. The first exception is rethrown here.
void Sampler::for_each_row(int64_t rows, bool threaded, const RowBody& body) {
  if (!threaded || pool_.size() == 1) {
    for (int64_t row = 0; row < rows; ++row) body(workspaces_.front(), row);
    return;
  }
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr problem;
  pool_.run([&](int member) {
    try {
      for (int64_t row; (row = next.fetch_add(1)) < rows;)
        body(workspaces_[static_cast<size_t>(member)], row);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      if (!problem) problem = std::current_exception();
    }
  });
  if (problem) std::rethrow_exception(problem);
}

}  // namespace polylora
