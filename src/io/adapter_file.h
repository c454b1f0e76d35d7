// Adapters as serving and training read them: resolved against a model, then packed. The kinds of files are
// io/adapter_source.h's business.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/adapter_source.h"
#include "model/adapter.h"
#include "model/config.h"
#include "ops/backend.h"

namespace polylora {

/// One LoRA pair found in the file, resolved against the model.
struct AdapterPair {
  int layer = 0;
  int module = 0;  // index into linear_modules()
  int64_t rank = 0;
  float scale = 1.0f;  // alpha/r, or alpha/sqrt(r) with rsLoRA, after rank_pattern/alpha_pattern
  StoredTensor a;      // [rank, k]
  StoredTensor b;      // [n, rank]

  /// What both are read in: their dtype, F32 if they differ.
  DType dtype() const { return a.dtype() == b.dtype() ? a.dtype() : DType::kF32; }
};

/// An adapter, opened and checked against a model's shapes. Opening reads config and header only. Refused
/// with what, where and why: what open_adapter refuses, features not supported yet (DoRA, modules_to_save,
/// bias, …, named), a tensor that matches no module, a wrong shape, an A without B, a rank that contradicts
/// the config, zero matches.
class AdapterFile {
 public:
  AdapterFile(const std::filesystem::path& path, const ModelConfig& config);

  const std::filesystem::path& path() const { return source_.path; }
  const AdapterConfig& config() const { return source_.config; }
  const std::vector<AdapterPair>& pairs() const { return pairs_; }
  const std::string& base_model_name() const { return source_.config.base_model_name; }
  int64_t max_rank() const { return max_rank_; }

  /// Bytes the packed adapter will take in `dtype` (an estimate good to a few percent, for budgets).
  size_t packed_bytes(DType dtype) const;

  /// Hash of config and tensor bytes: the identity of this generation. Reads the whole file.
  uint64_t content_hash() const { return source_.content_hash(); }

  /// Reads, checks for NaN/Inf (kDataCorrupt names the tensor) and packs, on a few short-lived threads. Any
  /// thread.
  std::unique_ptr<Adapter> load(Backend& backend, DType dtype) const;

 private:
  struct SitePairs {  // those of one fused linear
    int layer;
    Site site;
    std::span<const AdapterPair> pairs;
  };

  void resolve_pairs();
  std::vector<SitePairs> pairs_by_site() const;
  std::unique_ptr<LoraWeight> load_site(const SitePairs& site, Backend& backend, DType dtype) const;

  AdapterSource source_;
  int64_t max_rank_ = 0;
  std::vector<AdapterPair> pairs_;
  ModelConfig model_;
};

}  // namespace polylora
