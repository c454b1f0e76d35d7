// Random adapters for measuring with: PEFT folders of any rank for any model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "model/config.h"

namespace polylora {

/// Writes adapters of all seven linear modules in bf16, with values small enough that the model keeps talking
/// sense. A rank's weights are written a few times only and shared by further adapters as hard links; every
/// adapter has an alpha of its own, so that none has the content of another.
class SyntheticAdapters {
 public:
  /// Writes below `folder`.
  SyntheticAdapters(std::filesystem::path folder, ModelConfig config, std::string base_model);

  /// Adapter number `index` of this rank, in the folder `name`; returns its path. Throws kIo.
  std::filesystem::path write(const std::string& name, int64_t rank, int index) const;

 private:
  std::filesystem::path weights_file(int64_t rank, int index) const;

  std::filesystem::path folder_;
  ModelConfig config_;
  std::string base_model_;
};

}  // namespace polylora
