#include <algorithm>

#include "base/rng.h"
#include "tune/train/objective.h"

namespace polylora {
namespace {

class NextTokenObjective final : public Objective {
 public:
  NextTokenObjective(std::span<const Example> examples, int max_rows)
      : examples_(examples), max_rows_(max_rows) {}

  size_t size() const override { return examples_.size(); }
  int length(size_t example) const override { return static_cast<int>(examples_[example].input_ids.size()); }

  /// Every label token of the update weighs the same, wherever micro-batches are cut.
  ObjectiveResult accumulate(TrainingPass& pass, const Adapter& adapter, std::span<const size_t> examples,
                             uint64_t update_key) override {
    std::vector<const Example*> chosen;
    std::vector<uint64_t> keys;
    int64_t labelled = 0;
    for (size_t i = 0; i < examples.size(); ++i) {
      chosen.push_back(&examples_[examples[i]]);
      keys.push_back(random_bits(update_key, 1, i));
      labelled += count_targets(*chosen.back());
    }
    if (labelled == 0) return {};
    double sum = 0.0;
    for_micro_batches(chosen, keys, [&](MicroBatch& micro, size_t) {
      const std::vector<float> weights(micro.targets.size(), 1.0f / static_cast<float>(labelled));
      pass.forward(micro, &adapter, TrainingPass::Mode::kForBackward);
      pass.backward(micro, weights, loss_of(micro));
      for (const float loss : losses_) sum += loss;
    });
    return {sum / static_cast<double>(labelled), {}};
  }

  ObjectiveResult evaluate(TrainingPass& pass, const Adapter& adapter,
                           const EvaluationOptions& options) override {
    Sums sums;
    for (size_t first = 0; first < size(); first += static_cast<size_t>(options.batch_size)) {
      std::vector<const Example*> batch;
      const size_t end = std::min(size(), first + static_cast<size_t>(options.batch_size));
      for (size_t i = first; i < end; ++i) batch.push_back(&examples_[i]);
      evaluate_batch(pass, adapter, batch, options.accuracy, sums);
    }
    ObjectiveResult result;
    if (sums.weighted_examples > 0) result.loss = sums.loss / static_cast<double>(sums.weighted_examples);
    if (options.accuracy && sums.accuracy_examples > 0)
      result.metrics["accuracy"] = sums.accuracy / static_cast<double>(sums.accuracy_examples);
    return result;
  }

 private:
  struct Sums {
    double loss = 0.0;
    int64_t weighted_examples = 0;
    double accuracy = 0.0;  // of each example: the share of its label tokens that are likeliest
    int64_t accuracy_examples = 0;
  };

  template <typename Body>
  void for_micro_batches(std::span<const Example* const> examples, std::span<const uint64_t> keys,
                         Body body) {
    size_t begin = 0;
    for (const size_t end : cut_by_rows(examples, max_rows_)) {
      MicroBatch micro =
          make_micro_batch(examples.subspan(begin, end - begin), keys.subspan(begin, end - begin));
      if (!micro.targets.empty()) body(micro, begin);
      begin = end;
    }
  }

  std::span<float> loss_of(const MicroBatch& micro) {
    losses_.assign(micro.targets.size(), 0.0f);
    return losses_;
  }

  void evaluate_batch(TrainingPass& pass, const Adapter& adapter, std::span<const Example* const> batch,
                      bool accuracy, Sums& sums) {
    double loss = 0.0;
    int64_t labelled = 0;
    std::vector<int64_t> tokens(batch.size()), right(batch.size());
    const std::vector<uint64_t> keys(batch.size());
    for_micro_batches(batch, keys, [&](MicroBatch& micro, size_t first_example) {
      std::vector<uint8_t> correct(accuracy ? micro.targets.size() : 0);
      pass.forward(micro, &adapter, TrainingPass::Mode::kInference);
      pass.losses(micro, loss_of(micro), correct);
      for (size_t m = 0; m < micro.targets.size(); ++m) {
        const size_t owner = first_example + static_cast<size_t>(micro.target_owner[m]);
        loss += losses_[m];
        ++labelled;
        ++tokens[owner];
        if (accuracy) right[owner] += correct[m];
      }
    });
    if (labelled == 0) return;
    const auto count = static_cast<int64_t>(batch.size());
    sums.loss += loss / static_cast<double>(labelled) * static_cast<double>(count);
    sums.weighted_examples += count;
    for (size_t i = 0; i < batch.size(); ++i) {
      if (tokens[i] == 0) continue;
      sums.accuracy += static_cast<double>(right[i]) / static_cast<double>(tokens[i]);
      ++sums.accuracy_examples;
    }
  }

  std::span<const Example> examples_;
  int max_rows_;
  std::vector<float> losses_;
};

}  // namespace

std::unique_ptr<Objective> make_next_token_objective(std::span<const Example> examples, int max_rows) {
  return std::make_unique<NextTokenObjective>(examples, max_rows);
}

}  // namespace polylora
