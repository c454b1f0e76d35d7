// What training minimises: the next-token loss of examples (stages pt and sft), or the preference for one of
// two answers (stage dpo).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tune/data/example.h"
#include "tune/train/training_pass.h"

namespace polylora {

/// Means over what one update or one evaluation saw.
struct ObjectiveResult {
  double loss = 0.0;
  std::map<std::string, double> metrics;  // "rewards/margins", …; "accuracy"
};

struct EvaluationOptions {
  int batch_size = 8;
  bool accuracy = false;
};

/// A set of examples and what to learn from them. Holds references; used by the trainer's thread.
class Objective {
 public:
  virtual ~Objective() = default;

  virtual size_t size() const = 0;               // examples
  virtual int length(size_t example) const = 0;  // its tokens

  /// Rows that the longest example needs at once.
  int longest_rows() const {
    int longest = 0;
    for (size_t i = 0; i < size(); ++i) longest = std::max(longest, length(i));
    return longest;
  }

  /// Adds to the gradients of the adapter under training what `examples`, one update, contribute to the mean
  /// loss. `update_key` is the random key of the update.
  virtual ObjectiveResult accumulate(TrainingPass& pass, const Adapter& adapter,
                                     std::span<const size_t> examples, uint64_t update_key) = 0;

  /// All examples, in batches, as transformers evaluates: the mean of batch means, weighted by examples.
  virtual ObjectiveResult evaluate(TrainingPass& pass, const Adapter& adapter,
                                   const EvaluationOptions& options) = 0;
};

/// `max_rows`: of a micro-batch; the pass must take as many.
std::unique_ptr<Objective> make_next_token_objective(std::span<const Example> examples, int max_rows);

struct PreferenceSettings {
  double beta = 0.1;             // pref_beta
  double ftx = 0.0;              // pref_ftx: weight of the chosen answer's own mean loss
  double label_smoothing = 0.0;  // dpo_label_smoothing
};

/// Sigmoid DPO (Rafailov et al. 2023). The reference is the base with the adapter switched off; its
/// log-probabilities are computed once per pair.
std::unique_ptr<Objective> make_preference_objective(std::span<const PreferencePair> pairs, int max_rows,
                                                     const PreferenceSettings& settings);

/// Rows of a micro-batch: short examples share one, so that products have enough rows to be fast.
inline constexpr int kMicroBatchRows = 512;

}  // namespace polylora
