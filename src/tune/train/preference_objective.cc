#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "tune/train/objective.h"

namespace polylora {
namespace {

/// Of one pair: what the policy or the reference thinks of its two answers.
struct PairLogps {
  double chosen = 0.0, rejected = 0.0;
  int64_t chosen_tokens = 0;
};

/// Sums over pairs, for the means that are reported.
struct PreferenceSums {
  double loss = 0.0, chosen_reward = 0.0, rejected_reward = 0.0, preferred = 0.0;
  double chosen_logps = 0.0, rejected_logps = 0.0;
  int64_t pairs = 0;

  ObjectiveResult means() const {
    const auto n = static_cast<double>(std::max<int64_t>(1, pairs));
    return {loss / n,
            {{"rewards/chosen", chosen_reward / n},
             {"rewards/rejected", rejected_reward / n},
             {"rewards/accuracies", preferred / n},
             {"rewards/margins", (chosen_reward - rejected_reward) / n},
             {"logps/chosen", chosen_logps / n},
             {"logps/rejected", rejected_logps / n}}};
  }
};

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double log_sigmoid(double x) {
  return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x));
}

class PreferenceObjective final : public Objective {
 public:
  PreferenceObjective(std::span<const PreferencePair> pairs, int max_rows, const PreferenceSettings& settings)
      : pairs_(pairs),
        max_rows_(max_rows),
        settings_(settings),
        reference_(pairs.size()),
        known_(pairs.size()) {}

  size_t size() const override { return pairs_.size(); }
  int length(size_t pair) const override {
    return static_cast<int>(pairs_[pair].chosen.input_ids.size() + pairs_[pair].rejected.input_ids.size());
  }

  ObjectiveResult accumulate(TrainingPass& pass, const Adapter& adapter, std::span<const size_t> examples,
                             uint64_t update_key) override {
    PreferenceSums sums;
    const double share = 1.0 / static_cast<double>(examples.size());
    for_micro_batches(examples, [&](std::span<const size_t> some, size_t first) {
      learn_reference(pass, some);
      MicroBatch micro = micro_batch(some, update_key, first);
      pass.forward(micro, &adapter, TrainingPass::Mode::kForBackward);
      const std::vector<PairLogps> policy = logps(pass, micro, some.size());
      pass.backward(micro, weights(micro, some, policy, share), losses_);
      add(some, policy, sums);
    });
    return sums.means();
  }

  ObjectiveResult evaluate(TrainingPass& pass, const Adapter& adapter, const EvaluationOptions&) override {
    PreferenceSums sums;
    std::vector<size_t> all(size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = i;
    for_micro_batches(all, [&](std::span<const size_t> some, size_t first) {
      learn_reference(pass, some);
      MicroBatch micro = micro_batch(some, 0, first);
      pass.forward(micro, &adapter, TrainingPass::Mode::kInference);
      add(some, logps(pass, micro, some.size()), sums);
    });
    return sums.means();
  }

 private:
  template <typename Body>
  void for_micro_batches(std::span<const size_t> pairs, Body body) {
    size_t begin = 0;
    int rows = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      const int more = length(pairs[i]);
      if (rows > 0 && rows + more > max_rows_) {
        body(pairs.subspan(begin, i - begin), begin);
        begin = i;
        rows = 0;
      }
      rows += more;
    }
    if (begin < pairs.size()) body(pairs.subspan(begin), begin);
  }

  /// Examples 2i and 2i+1 are the two answers of pair i.
  MicroBatch micro_batch(std::span<const size_t> pairs, uint64_t update_key, size_t first) const {
    std::vector<const Example*> examples;
    std::vector<uint64_t> keys;
    for (size_t i = 0; i < pairs.size(); ++i) {
      examples.push_back(&pairs_[pairs[i]].chosen);
      examples.push_back(&pairs_[pairs[i]].rejected);
      for (const uint64_t answer : {0u, 1u})
        keys.push_back(random_bits(update_key, 1, 2 * (first + i) + answer));
    }
    return make_micro_batch(examples, keys);
  }

  std::vector<PairLogps> logps(TrainingPass& pass, const MicroBatch& micro, size_t pairs) {
    losses_.assign(micro.targets.size(), 0.0f);
    pass.losses(micro, losses_);
    std::vector<PairLogps> result(pairs);
    for (size_t m = 0; m < losses_.size(); ++m) {
      const auto owner = static_cast<size_t>(micro.target_owner[m]);
      PairLogps& pair = result[owner / 2];
      (owner % 2 == 0 ? pair.chosen : pair.rejected) -= losses_[m];
      pair.chosen_tokens += owner % 2 == 0;
    }
    return result;
  }

  void learn_reference(TrainingPass& pass, std::span<const size_t> pairs) {
    if (std::all_of(pairs.begin(), pairs.end(), [this](size_t i) { return known_[i]; })) return;
    MicroBatch micro = micro_batch(pairs, 0, 0);
    pass.forward(micro, nullptr, TrainingPass::Mode::kInference);
    const std::vector<PairLogps> reference = logps(pass, micro, pairs.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
      reference_[pairs[i]] = reference[i];
      known_[pairs[i]] = true;
    }
  }

  double margin(size_t pair, const PairLogps& policy) const {
    const PairLogps& reference = reference_[pair];
    return settings_.beta * ((policy.chosen - policy.rejected) - (reference.chosen - reference.rejected));
  }

  /// d mean loss / d (−log p) of every target.
  std::vector<float> weights(const MicroBatch& micro, std::span<const size_t> pairs,
                             const std::vector<PairLogps>& policy, double share) const {
    std::vector<float> result(micro.targets.size());
    for (size_t m = 0; m < result.size(); ++m) {
      const auto owner = static_cast<size_t>(micro.target_owner[m]);
      const PairLogps& pair = policy[owner / 2];
      const double z = margin(pairs[owner / 2], pair), smoothing = settings_.label_smoothing;
      const double slope = smoothing * sigmoid(z) - (1.0 - smoothing) * sigmoid(-z);  // d loss / d z
      double weight = (owner % 2 == 0 ? -1.0 : 1.0) * settings_.beta * slope;
      if (owner % 2 == 0) weight += settings_.ftx / static_cast<double>(pair.chosen_tokens);
      result[m] = static_cast<float>(share * weight);
    }
    return result;
  }

  void add(std::span<const size_t> pairs, const std::vector<PairLogps>& policy, PreferenceSums& sums) const {
    for (size_t i = 0; i < pairs.size(); ++i) {
      const double z = margin(pairs[i], policy[i]), smoothing = settings_.label_smoothing;
      sums.loss += -(1.0 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z);
      const auto tokens = static_cast<double>(std::max<int64_t>(1, policy[i].chosen_tokens));
      sums.loss -= settings_.ftx * policy[i].chosen / tokens;
      const double chosen = settings_.beta * (policy[i].chosen - reference_[pairs[i]].chosen);
      const double rejected = settings_.beta * (policy[i].rejected - reference_[pairs[i]].rejected);
      sums.chosen_reward += chosen;
      sums.rejected_reward += rejected;
      sums.preferred += chosen > rejected ? 1.0 : 0.0;
      sums.chosen_logps += policy[i].chosen;
      sums.rejected_logps += policy[i].rejected;
      ++sums.pairs;
    }
  }

  std::span<const PreferencePair> pairs_;
  int max_rows_;
  PreferenceSettings settings_;
  std::vector<PairLogps> reference_;  // by pair, where known_
  std::vector<bool> known_;
  std::vector<float> losses_;
};

}  // namespace

std::unique_ptr<Objective> make_preference_objective(std::span<const PreferencePair> pairs, int max_rows,
                                                     const PreferenceSettings& settings) {
  return std::make_unique<PreferenceObjective>(pairs, max_rows, settings);
}

}  // namespace polylora
