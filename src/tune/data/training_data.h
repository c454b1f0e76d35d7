// From a training configuration to token ids: reads the datasets it names, mixes and splits them, tokenises
// and packs.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"
#include "tune/config/train_config.h"
#include "tune/data/example.h"
#include "tune/data/turn_encoder.h"

namespace polylora {

/// Examples of stages pt and sft, or pairs of stage dpo; the other is empty.
struct EvalSet {
  std::string name;  // the dataset's with eval_on_each_dataset; empty: the only set
  std::vector<Example> examples;
  std::vector<PreferencePair> pairs;
};

struct TrainingData {
  std::vector<Example> train;
  std::vector<PreferencePair> train_pairs;
  std::vector<EvalSet> eval;
  std::vector<std::string>
      report;  // lines to tell the user: per dataset what was read, used, dropped and why
};

/// Reads, in the order of the datasets (the trainer shuffles). Deterministic: depends on the files, the
/// config and its seed, never on threads. Uses config.threads threads (0: one per core). Packing and pt's
/// blocks work on 1000 records at a time, as LLaMA-Factory's preprocessing_batch_size does. Throws one line
/// naming file, row and column for a bad record, and when nothing usable is left.
TrainingData load_training_data(const TrainConfig& config, const Tokenizer& tokenizer, const ModelText& model,
                                const ProgressFn& progress = {});

/// What of a model's text files training needs.
ModelText model_text(const TextAssets& assets);

}  // namespace polylora
