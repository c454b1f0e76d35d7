// Adapters as serving and training read them: resolved against a model, then packed. The kinds of files are
// io/adapter_source.h's business.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
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
  float scale = 1.0f;                     // alpha/r, or alpha/sqrt(r) with rsLoRA, after the patterns
  StoredTensor a;                         // [rank, k]
  StoredTensor b;                         // [n, rank]
  std::optional<StoredTensor> magnitude;  // [n], with DoRA
  std::optional<StoredTensor> bias;       // [n], of B

  /// What both are read in: their dtype, F32 if they differ.
  DType dtype() const { return a.dtype() == b.dtype() ? a.dtype() : DType::kF32; }
};

/// A bias instead of the base's.
struct AdapterBias {
  int layer = 0;
  int module = 0;
  StoredTensor values;  // [n]
};

/// What an adapter has for embed_tokens or lm_head.
struct AdapterMatrix {
  std::optional<StoredTensor> full;  // [V', D], instead of the base's
  std::optional<StoredTensor> a, b;  // a pair: [rank, V] and [D, rank], or of lm_head [rank, D] and [V, rank]
  int64_t rank = 0;
  float scale = 1.0f;

  bool empty() const { return !full && !a; }
};

/// An adapter, opened and checked against a model's shapes. Opening reads config and header only. Refused
/// with what, where and why: what open_adapter refuses, modules other than linears, embed_tokens and lm_head,
/// a tensor that matches no module, a wrong shape, an A without B, a rank that contradicts the config, zero
/// matches.
class AdapterFile {
 public:
  AdapterFile(const std::filesystem::path& path, const ModelConfig& config);

  const std::filesystem::path& path() const { return source_.path; }
  const AdapterConfig& config() const { return source_.config; }
  const std::vector<AdapterPair>& pairs() const { return pairs_; }  // by layer and module
  const std::string& base_model_name() const { return source_.config.base_model_name; }
  /// base_fingerprint() of the model it was trained on; empty when the trainer left none.
  const std::string& base_fingerprint() const { return source_.base_fingerprint; }
  int64_t max_rank() const { return max_rank_; }
  int vocab_size() const;  // the model's, or that of its own lm_head

  /// All that it does is a sum of pairs: it can be one of several adapters on the same rows.
  bool stackable() const;
  /// Nothing but pairs on the linears of the layers: what training can go on with.
  bool pairs_only() const;

  /// Bytes the packed adapter will take in `dtype` (an estimate good to a few percent, for budgets).
  size_t packed_bytes(DType dtype) const;

  /// Hash of config and tensor bytes: the identity of this generation. Reads the whole file.
  uint64_t content_hash() const { return source_.content_hash(); }

  /// Reads, checks for NaN/Inf (kDataCorrupt names the tensor) and packs, on a few short-lived threads. Any
  /// thread. `model` is the one that it was opened for; its weights are read for DoRA's norms, and compared
  /// with matrices that PEFT saves unchanged beside a pair, which are dropped.
  std::unique_ptr<Adapter> load(const Model& model, Backend& backend, DType dtype) const;

 private:
  void resolve();
  void resolve_vocabulary(const std::string& file);

  AdapterSource source_;
  int64_t max_rank_ = 0;
  std::vector<AdapterPair> pairs_;
  std::vector<AdapterBias> biases_;
  AdapterMatrix embedding_, lm_head_;
  ModelConfig model_;

  friend class AdapterLoader;
};

}  // namespace polylora
