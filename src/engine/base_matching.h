// Which base model an adapter is for, where there are several.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "io/adapter_file.h"
#include "model/weights.h"

namespace polylora {

/// A base model that adapters may be for.
struct AdapterBase {
  const Model* model = nullptr;      // outlives the registry
  DType dtype = DType::kBf16;        // how A and B of its adapters are held
  int64_t max_lora_rank = 0;         // 0: any
  std::vector<std::string> names{};  // that it is served under; may be empty
  std::filesystem::path path{};      // of its checkpoint; may be empty
  std::string fingerprint{};         // base_fingerprint() of its model; may be empty
};

/// An adapter's folder, opened against the base model that it is for.
struct MatchedAdapter {
  size_t base = 0;  // index
  AdapterFile file;
};

/// With one base, that is it. Of several it is the one that `base_model_name` names, if given; else the one
/// whose shapes the adapter fits; of several that it fits, the one that adapter_config.json's
/// base_model_name_or_path means (a served name or the path of the checkpoint, or else the last part of
/// either); of those, the one whose fingerprint the training left in the adapter.
/// Throws what AdapterFile throws, and kInvalidArgument naming the bases when the name is unknown, none fits,
/// or several do and nothing tells them apart.
MatchedAdapter match_base(const std::filesystem::path& adapter, const std::string& base_model_name,
                          std::span<const AdapterBase> bases);

}  // namespace polylora
