// From logits to tokens, with vLLM's sampling semantics.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "engine/distribution.h"
#include "engine/logits_processors.h"
#include "engine/logprobs.h"
#include "engine/request.h"

namespace polylora {

/// What a row yields depends on that row and its input only, never on other rows or on the thread.
class Sampler {
 public:
  Sampler(int vocab_size, int threads);

  /// Makes room for rows of a larger vocabulary.
  void reserve(int vocab_size);

  /// outputs[r] = the token drawn from logits[r] (and its logprobs, if wanted). Changes the logits.
  void sample(Mat logits, std::span<const SamplingInput> inputs, std::span<TokenOutput> outputs);

  /// outputs[r] = log-probabilities of tokens[r] and the `top` most likely tokens in logits[r].
  void logprobs(ConstMat logits, std::span<const int32_t> tokens, int top,
                std::span<std::vector<TokenLogprob>> outputs);

  /// The distribution that sample() draws from; one token has it all when greedy. Changes the logits.
  std::vector<double> probabilities(std::span<float> logits, const SamplingInput& input);

 private:
  struct Workspace {
    explicit Workspace(int vocab_size);
    int32_t draw(std::span<float> logits, const SamplingInput& input);
    int32_t most_likely(std::span<const float> logits);

    LogitsProcessors processors;
    Distribution distribution;
    Logprobs logprobs;
    std::vector<float> maxima;
    std::vector<float> original;  // the row before processing
  };
  using RowBody = std::function<void(Workspace&, int64_t row)>;
  void for_each_row(int64_t rows, bool threaded, const RowBody& body);

  int vocab_size_;
  ThreadPool pool_;
  std::vector<Workspace> workspaces_;  // one per thread
};

}  // namespace polylora
