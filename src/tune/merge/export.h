// `polylora export`: a base model with adapters merged into it, as a new model folder or GGUF file.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "tune/config/train_config.h"

namespace polylora {

struct ExportReport {
  size_t tensors = 0;                        // written
  size_t merged = 0;                         // of them, changed by an adapter
  uint64_t bytes = 0;                        // of tensor data
  std::string dtype;                         // "BF16"
  std::vector<std::filesystem::path> files;  // of weights
  std::vector<std::string> notices;          // one line each: what the user should know
};

/// Exports as `config` says. The written dtype is infer_dtype; with `auto` the model's own, and bfloat16 for
/// a float32 model or a GGUF file. Files appear in export_dir under their names only when all weights are
/// written; what an earlier export left under other shard names is removed then. Throws what BaseTensors,
/// PeftAdapter, MergePlan and write_tensors throw; kInvalidArgument when export_dir is the model's own
/// folder, kResourceExhausted when the disk is too small.
ExportReport export_model(const ExportConfig& config, const ProgressFn& progress = {},
                          const std::atomic<bool>* cancelled = nullptr);

}  // namespace polylora
