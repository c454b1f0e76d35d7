#include "cli/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "engine/row_math.h"
#include "model/forward.h"

namespace polylora {
namespace {

constexpr int kLogitRows = 64;  // as many logits as a cache holds

/// -log softmax(logits)[target]
double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  std::vector<float> maxima(row_math::blocks(logits.size()));
  row_math::block_maxima(logits, maxima);
  const float largest = *std::max_element(maxima.begin(), maxima.end());
  std::vector<double> sums(maxima.size());
  row_math::exp_blocks(logits, largest, 1.0f, {}, sums);
  const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  return std::log(sum) + largest - logits[static_cast<size_t>(target)];
}

class LikelihoodPass {
 public:
  LikelihoodPass(const Model& model, Backend& backend, const PerplexityOptions& options)
      : options_(options),
        vocab_size_(model.config.vocab_size),
        forward_(model, backend, options.context, options.context),
        pages_(static_cast<size_t>((options.context + kKvPageSize - 1) / kKvPageSize)),
        logits_(static_cast<size_t>(kLogitRows) * static_cast<size_t>(vocab_size_)) {
    const ModelConfig& config = model.config;
    cache_ = backend.make_kv_cache({config.num_layers, static_cast<int>(pages_.size()), config.num_kv_heads,
                                    config.head_dim, options.kv_cache_dtype});
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  /// The sum over all tokens of the window but the first.
  double window(std::span<const int32_t> tokens) {
    forward_.run(batch_of(tokens), *cache_);
    double sum = 0;
    for (size_t row = 0; row + 1 < tokens.size(); row += kLogitRows)
      sum += rows(tokens, row, std::min(row + kLogitRows, tokens.size() - 1));
    return sum;
  }

 private:
  Batch batch_of(std::span<const int32_t> tokens) const {
    Batch batch;
    const auto count = static_cast<int>(tokens.size());
    batch.token_ids.assign(tokens.begin(), tokens.end());
    batch.positions.resize(tokens.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    batch.sequences.push_back({0, count, 0, pages_});
    batch.groups.push_back({0, count, options_.adapter});
    return batch;
  }

  /// What rows [begin, end) say about the tokens that follow them.
  double rows(std::span<const int32_t> tokens, size_t begin, size_t end) {
    std::vector<int32_t> rows(end - begin);
    std::iota(rows.begin(), rows.end(), static_cast<int32_t>(begin));
    const Mat logits(logits_.data(), static_cast<int64_t>(rows.size()), vocab_size_);
    forward_.logits(rows, logits);
    double sum = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::span<const float> row(logits.row(static_cast<int64_t>(i)), static_cast<size_t>(vocab_size_));
      sum += negative_log_likelihood(row, tokens[begin + i + 1]);
    }
    return sum;
  }

  const PerplexityOptions options_;
  const int vocab_size_;
  ForwardPass forward_;
  std::vector<int32_t> pages_;
  std::unique_ptr<KvCache> cache_;
  std::vector<float> logits_;
};

}  // namespace

double TextLikelihood::perplexity() const {
  return std::exp(nll);
}

TextLikelihood measure_likelihood(const Model& model, Backend& backend, std::span<const int32_t> tokens,
                                  const PerplexityOptions& options) {
  if (tokens.size() < 2)
    fail(ErrorCode::kInvalidArgument, "a text of {} tokens has nothing to predict", tokens.size());
  LikelihoodPass pass(model, backend, options);
  TextLikelihood text;
  double sum = 0;
  for (size_t begin = 0; begin + 1 < tokens.size(); begin += static_cast<size_t>(options.context)) {
    const auto window =
        tokens.subspan(begin, std::min<size_t>(static_cast<size_t>(options.context), tokens.size() - begin));
    sum += pass.window(window);
    text.predicted += static_cast<int64_t>(window.size()) - 1;
  }
  text.nll = sum / static_cast<double>(text.predicted);
  return text;
}

}  // namespace polylora
