// What a training run keeps on disk besides its logs: adapters and checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "tune/config/train_config.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

/// The PEFT folder of an adapter under training.
class AdapterSaver {
 public:
  /// With `pissa_start` (the values of all parameters right after PiSSA's initialisation; empty: no PiSSA)
  /// the saved adapter is the difference to that start, of twice the rank, and so belongs to the unchanged
  /// base.
  AdapterSaver(const TrainConfig& config, const Checkpoint& base, std::string base_fingerprint,
               const TrainableAdapter& trained, std::vector<float> pissa_start);

  /// adapter_config.json, adapter_model.safetensors, tokenizer files. Throws kIo.
  void save(const std::filesystem::path& folder) const;

  bool converts() const { return !pissa_start_.empty(); }

 private:
  const TrainConfig& config_;
  const Checkpoint& base_;
  const std::string base_fingerprint_;
  const TrainableAdapter& trained_;
  std::vector<float> pissa_start_;
};

/// checkpoint-N folders of an output folder. A folder of that name is always complete: it is written under
/// another name and renamed.
class CheckpointFolders {
 public:
  explicit CheckpointFolders(std::filesystem::path output_dir) : output_dir_(std::move(output_dir)) {}

  std::filesystem::path path(int64_t step) const;
  std::vector<int64_t> steps() const;  // ascending
  std::optional<std::filesystem::path> last() const;

  /// `fill` writes the content into the folder it is given. An existing checkpoint of the step is replaced.
  void write(int64_t step, const std::function<void(const std::filesystem::path&)>& fill) const;

  /// Removes the oldest until `limit` are left (0: keeps all), never `keep`, as transformers rotates.
  void rotate(int limit, const std::string& keep) const;

  /// Removes what a killed process left half-written.
  void remove_partial() const;

 private:
  std::filesystem::path output_dir_;
};

/// optimizer.safetensors: Adam's moments by parameter name, and, `with_values`, the values too (where
/// adapter_model.safetensors holds something else).
void write_optimizer_state(const std::filesystem::path& folder, const TrainableAdapter& trained,
                           bool with_values);

/// Restores values and moments from a checkpoint, bit for bit. Throws kNotFound / kDataCorrupt naming file
/// and tensor when the checkpoint belongs to another adapter or has no optimizer state (save_only_model).
void read_training_state(const std::filesystem::path& checkpoint, const TrainableAdapter& trained);

/// Values alone, from an adapter folder that AdapterSaver wrote without PiSSA.
void read_adapter_values(const std::filesystem::path& folder, const TrainableAdapter& trained);

}  // namespace polylora
