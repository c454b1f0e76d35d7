// `polylora train`, without its command line: from a configuration to a trained adapter on disk.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

#include "base/progress.h"
#include "tune/config/train_config.h"
#include "tune/train/trainer.h"

namespace polylora {

struct FineTuneHooks {
  TrainerHooks trainer;
  ProgressFn progress;  // of loading and tokenising
  /// What the configuration calls the base and the adapters, as paths; empty: they are paths.
  std::function<std::filesystem::path(const std::string&)> find_model = {}, find_adapter = {};
};

/// Opens the model, reads the data, makes (or reads) the adapter, trains, evaluates and saves, as the
/// configuration says. Refused before weights are loaded: what will not fit into `available_memory` bytes, an
/// output folder that is not empty (unless it is to be overwritten or holds a checkpoint to go on from).
TrainOutcome fine_tune(const TrainConfig& config, const FineTuneHooks& hooks, size_t available_memory);

}  // namespace polylora
