#include "tune/merge/verify.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "io/adapter_file.h"
#include "model/forward.h"
#include "text/tokenizer.h"

namespace polylora {
namespace {

constexpr uint64_t kSeed = 20241124;
constexpr int kPromptTokens = 32;
constexpr double kNoEffect = 1e-6;  // nats

constexpr std::string_view kTexts[] = {
    "The customer wrote that the parcel arrived on Tuesday, but",
    "Question: What is the capital of Portugal?\nAnswer:",
    "def average(values):\n    total = ",
    "Dear team, thank you for the report. In summary,",
};

struct Format {
  WeightPolicy policy;
  DType dtype;
};

Format format_of(const std::string& dtype) {
  if (dtype == "bfloat16") return {WeightPolicy::kBf16, DType::kBf16};
  if (dtype == "float32") return {WeightPolicy::kF32, DType::kF32};
  fail(ErrorCode::kInvalidArgument, "dtype '{}' is not one of bfloat16, float32", dtype);
}

/// A prompt, and the continuation that the adapter gave it with the logits before each token.
struct Sequence {
  std::vector<int32_t> ids;  // prompt and all of the continuation but its last token
  int prompt = 0;
  std::vector<float> logits;  // [tokens, V]
};

/// One loaded model, one sequence at a time.
class Runner {
 public:
  Runner(const Checkpoint& checkpoint, Backend& backend, Format format, int positions)
      : model_(load_model(checkpoint, backend, format.policy)),
        forward_(*model_, backend, positions, positions) {
    const ModelConfig& config = model_->config;
    pages_.resize(static_cast<size_t>((positions + kKvPageSize - 1) / kKvPageSize));
    std::iota(pages_.begin(), pages_.end(), 0);
    cache_ = backend.make_kv_cache({config.num_layers, static_cast<int>(pages_.size()), config.num_kv_heads,
                                    config.head_dim, format.dtype});
  }

  const Model& model() const { return *model_; }
  int vocab() const { return model_->config.vocab_size; }

  /// Runs ids at positions [start, …); logits of the last `out.rows` of them.
  void run(std::span<const int32_t> ids, int start, const Adapter* adapter, Mat out) {
    const int rows = static_cast<int>(ids.size());
    Batch batch;
    batch.token_ids.assign(ids.begin(), ids.end());
    batch.positions.resize(ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), start);
    batch.sequences.push_back({0, rows, start, pages_});
    batch.groups.push_back({0, rows, adapter});
    forward_.run(batch, *cache_);
    std::vector<int32_t> wanted(static_cast<size_t>(out.rows));
    std::iota(wanted.begin(), wanted.end(), rows - static_cast<int>(out.rows));
    forward_.logits(wanted, out);
  }

 private:
  std::unique_ptr<Model> model_;
  ForwardPass forward_;
  std::vector<int32_t> pages_;
  std::unique_ptr<KvCache> cache_;
};

std::vector<std::vector<int32_t>> make_prompts(const Checkpoint& checkpoint, int count) {
  const auto wanted = static_cast<size_t>(count);
  const int vocab = checkpoint.config().vocab_size;
  std::vector<std::vector<int32_t>> prompts;
  const TextAssets& text = checkpoint.text();
  if (!text.tokenizer_json.empty()) {
    const auto tokenizer = Tokenizer::from_json(text.tokenizer_json, text.tokenizer_config_json);
    for (const std::string_view prompt : kTexts) {
      std::vector<int32_t> ids = tokenizer->encode(prompt, true);
      const bool known = std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id < vocab; });
      if (prompts.size() < wanted && !ids.empty() && known) prompts.push_back(std::move(ids));
    }
  }
  while (prompts.size() < wanted) {
    std::vector<int32_t> ids(kPromptTokens);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(random_uniform(kSeed, prompts.size(), i) * vocab);
    prompts.push_back(std::move(ids));
  }
  return prompts;
}

int32_t most_likely(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Sequence continue_prompt(Runner& runner, std::vector<int32_t> ids, const Adapter* adapter, int tokens) {
  const auto vocab = static_cast<size_t>(runner.vocab());
  Sequence sequence{.ids = std::move(ids), .prompt = 0, .logits = {}};
  sequence.prompt = static_cast<int>(sequence.ids.size());
  sequence.logits.resize(static_cast<size_t>(tokens) * vocab);
  int done = 0;  // positions in the cache
  for (int t = 0; t < tokens; ++t) {
    float* row = sequence.logits.data() + static_cast<size_t>(t) * vocab;
    runner.run(std::span(sequence.ids).subspan(static_cast<size_t>(done)), done, adapter,
               Mat(row, 1, runner.vocab()));
    done = static_cast<int>(sequence.ids.size());
    if (t + 1 < tokens) sequence.ids.push_back(most_likely({row, vocab}));
  }
  return sequence;
}

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float value : logits) sum += std::exp(double{value} - top);
  return top + std::log(sum);
}

double divergence(std::span<const float> p, std::span<const float> q) {
  const double norm_p = log_sum_exp(p), norm_q = log_sum_exp(q);
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = double{p[i]} - norm_p;
    sum += std::exp(log_p) * (log_p - (double{q[i]} - norm_q));
  }
  return sum < 0.0 ? 0.0 : sum;  // rounding; NaN stays
}

/// Sums up position by position; finish() makes means of it.
class DistanceSum {
 public:
  void add(std::span<const float> adapter, std::span<const float> other) {
    for (size_t i = 0; i < adapter.size(); ++i) {
      const double difference = std::fabs(double{adapter[i]} - double{other[i]});
      double& worst = distance_.max_logit_difference;
      if (difference > worst || std::isnan(difference)) worst = difference;  // once NaN, always NaN
    }
    const double kl = divergence(adapter, other);
    distance_.mean_kl += kl;
    distance_.max_kl = std::max(distance_.max_kl, kl);
    distance_.greedy_agreement += most_likely(adapter) == most_likely(other) ? 1.0 : 0.0;
    ++positions_;
  }

  Distance finish() const {
    Distance mean = distance_;
    mean.mean_kl /= positions_;
    mean.greedy_agreement /= positions_;
    return mean;
  }
  int positions() const { return positions_; }

 private:
  Distance distance_;
  int positions_ = 0;
};

/// The same tokens through another model.
void compare(Runner& runner, const Sequence& sequence, int tokens, DistanceSum& sum) {
  const auto vocab = static_cast<size_t>(runner.vocab());
  std::vector<float> logits(static_cast<size_t>(tokens) * vocab);
  runner.run(sequence.ids, 0, nullptr, Mat(logits.data(), tokens, runner.vocab()));
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    sum.add(std::span(sequence.logits).subspan(t * vocab, vocab),
            std::span(logits).subspan(t * vocab, vocab));
  }
}

int longest(const std::vector<std::vector<int32_t>>& prompts, int tokens, const ModelConfig& config) {
  size_t most = 0;
  for (const auto& prompt : prompts) most = std::max(most, prompt.size());
  const int positions = static_cast<int>(most) + tokens;
  if (positions <= config.max_position_embeddings) return positions;
  fail(ErrorCode::kInvalidArgument,
       "--tokens {}: with the prompts that is more than the model's context of {}", tokens,
       config.max_position_embeddings);
}

Distance measure_merged(const VerifyOptions& options, Backend& backend, int vocab, int positions,
                        const std::vector<Sequence>& sequences, const ProgressFn& progress) {
  const auto checkpoint = Checkpoint::open(options.merged);
  if (checkpoint->config().vocab_size != vocab) {
    fail(ErrorCode::kInvalidArgument, "{} has a vocabulary of {}, the base {}: not the same model",
         options.merged.string(), checkpoint->config().vocab_size, vocab);
  }
  Runner runner(*checkpoint, backend, format_of(options.dtype), positions);
  DistanceSum sum;
  for (const Sequence& sequence : sequences) {
    compare(runner, sequence, options.tokens, sum);
    if (progress) {
      progress("merged model",
               0.5 + 0.5 * sum.positions() / (options.tokens * static_cast<double>(sequences.size())));
    }
  }
  return sum.finish();
}

nlohmann::ordered_json to_json(const Distance& distance) {
  return {{"max_logit_difference", distance.max_logit_difference},
          {"mean_kl", distance.mean_kl},
          {"max_kl", distance.max_kl},
          {"greedy_agreement", distance.greedy_agreement}};
}

}  // namespace

VerifyReport verify_merge(const VerifyOptions& options, const ProgressFn& progress) {
  const Format format = format_of(options.dtype);
  const auto backend = make_backend(options.backend);
  std::vector<Sequence> sequences;
  DistanceSum of_base;
  int vocab = 0, positions = 0;
  {
    const auto checkpoint = Checkpoint::open(options.base);
    const AdapterFile file(options.adapter, checkpoint->config());
    if (file.vocab_size() != checkpoint->config().vocab_size) {
      fail(ErrorCode::kUnsupported,
           "{}: the adapter has a vocabulary of its own, which verify does not compare",
           options.adapter.string());
    }
    auto prompts = make_prompts(*checkpoint, options.prompts);
    positions = longest(prompts, options.tokens, checkpoint->config());
    Runner runner(*checkpoint, *backend, format, positions);
    const auto adapter = file.load(runner.model(), *backend, format.dtype);
    vocab = runner.vocab();
    for (auto& prompt : prompts) {
      sequences.push_back(continue_prompt(runner, std::move(prompt), adapter.get(), options.tokens));
      compare(runner, sequences.back(), options.tokens, of_base);
      if (progress)
        progress("base and adapter", 0.5 * of_base.positions() / (options.tokens * double(options.prompts)));
    }
  }  // the base's memory is free before the merged model is loaded
  VerifyReport report{
      .positions = of_base.positions(), .merged = {}, .base = of_base.finish(), .agrees = false};
  report.merged = measure_merged(options, *backend, vocab, positions, sequences, progress);
  const bool has_effect = report.base.mean_kl > kNoEffect;
  report.agrees = report.merged.mean_kl <= options.tolerance &&
                  (!has_effect || report.merged.mean_kl < report.base.mean_kl);
  return report;
}

nlohmann::ordered_json verify_json(const VerifyOptions& options, const VerifyReport& report) {
  return {{"base", options.base.string()},
          {"adapter", options.adapter.string()},
          {"merged", options.merged.string()},
          {"dtype", options.dtype},
          {"prompts", options.prompts},
          {"tokens", options.tokens},
          {"positions", report.positions},
          {"adapter_to_merged", to_json(report.merged)},
          {"adapter_to_base", to_json(report.base)},
          {"tolerance", options.tolerance},
          {"agrees", report.agrees}};
}

}  // namespace polylora
