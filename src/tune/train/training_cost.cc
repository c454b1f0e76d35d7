#include "tune/train/training_cost.h"

namespace polylora {

double training_flops(const ModelConfig& config, const TrainableAdapter& trained, const MicroBatch& micro) {
  double linear_weights = 0.0, pair_weights = 0.0, seen_keys = 0.0;
  for (const LinearModule& module : linear_modules(config)) {
    linear_weights += static_cast<double>(module.n_count * module.k) * config.num_layers *
                      (module.expert >= 0 ? config.experts.share() : 1.0);
  }
  for (const Parameter& parameter : trained.parameters()) {
    if (parameter.kind == Parameter::Kind::kLoraA || parameter.kind == Parameter::Kind::kLoraB)
      pair_weights += static_cast<double>(parameter.size());
  }
  for (const SequenceSpan& span : micro.batch.sequences)
    seen_keys += 0.5 * static_cast<double>(span.row_count) * (span.row_count + 1);
  const auto rows = static_cast<double>(micro.rows()), targets = static_cast<double>(micro.targets.size());
  const double head = static_cast<double>(config.vocab_size) * config.hidden_size;
  return 4.0 * linear_weights * rows + 4.0 * head * targets + 6.0 * pair_weights * rows +
         14.0 * seen_keys * config.q_size() * config.num_layers;
}

}  // namespace polylora
