// The parameters under training: f32 masters of every LoRA pair (and of matrices trained in full), their
// gradients and Adam's moments, each in one flat buffer.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/arena.h"
#include "model/adapter.h"
#include "model/config.h"
#include "ops/training_backend.h"

namespace polylora {

/// What makes a LoRA adapter: PEFT's LoraConfig as far as training needs it.
struct LoraSettings {
  int64_t rank = 8;
  double alpha = 16.0;
  bool use_rslora = false;
  bool use_dora = false;
  /// "all" (is_linear_layer), or names: a module is a target when its path ends with one (PEFT's rule).
  std::vector<std::string> targets = {"all"};
  /// Matrices trained in full beside the pairs (PEFT's modules_to_save): "embed_tokens", "lm_head".
  std::vector<std::string> full_matrices;

  float scale() const;  // alpha / r, or alpha / sqrt(r) with rsLoRA
};

/// One tensor of the adapter: its place in the flat buffers and its PEFT name.
struct Parameter {
  enum class Kind : uint8_t { kLoraA, kLoraB, kMagnitude, kFullMatrix };
  Kind kind = Kind::kLoraA;
  std::string name;                       // "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  std::array<int64_t, 2> shape = {0, 0};  // A: [R,K], B: [N,R], full: [V,D]; a magnitude is [N,1]
  size_t offset = 0;                      // in floats

  size_t size() const { return static_cast<size_t>(shape[0] * shape[1]); }
};

/// The pair on one linear module; indexes into parameters().
struct TrainablePair {
  int layer = 0;
  int module = 0;  // index into linear_modules()
  size_t a = 0, b = 0;
  size_t magnitude = 0;  // with DoRA only
};

/// Not thread-safe. Buffers never move.
class TrainableAdapter {
 public:
  /// Lays out all parameters; values are zero until initialised or loaded. Throws kInvalidArgument for a
  /// target that names no module, with the known ones.
  TrainableAdapter(const ModelConfig& config, const LoraSettings& settings);

  /// PEFT's default: A uniform in ±1/sqrt(K) (Kaiming with a = sqrt(5)), B zero. A pure function of the seed
  /// and the parameter's name.
  void initialize(uint64_t seed);

  const LoraSettings& settings() const { return settings_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<TrainablePair>& pairs() const { return pairs_; }
  std::vector<std::string> target_names() const;  // "q_proj", …: what adapter_config.json lists
  const Parameter* full_matrix(std::string_view module) const;  // "embed_tokens", "lm_head"; null: frozen
  int first_layer() const;  // lowest with a pair; the number of layers when there is none

  /// All of them, flat; a parameter's share starts at its offset.
  std::span<float> values() const { return buffer(values_); }
  std::span<float> gradients() const { return buffer(gradients_); }
  std::span<float> first_moments() const { return buffer(first_moments_); }
  std::span<float> second_moments() const { return buffer(second_moments_); }
  Mat value(const Parameter& parameter) const { return view(values_, parameter); }
  Mat gradient(const Parameter& parameter) const { return view(gradients_, parameter); }

  /// The pairs of one fused linear as lora_backward takes them; empty where nothing is trained.
  std::span<const LoraGradient> gradients_at(int layer, Site site) const;

  /// A copy of the current values as the forward pass uses them. DoRA's gains are not in it.
  std::unique_ptr<Adapter> pack(Backend& backend, DType dtype) const;

  size_t bytes() const { return 4 * values_.size(); }

 private:
  size_t add_parameter(Parameter::Kind kind, std::string name, int64_t rows, int64_t cols);
  void add_pairs(const ModelConfig& config);
  void add_full_matrices(const ModelConfig& config);
  void make_gradient_views();
  std::span<float> buffer(const HugeBuffer& memory) const { return {memory.as<float>(), floats_}; }
  Mat view(const HugeBuffer& memory, const Parameter& parameter) const {
    return {memory.as<float>() + parameter.offset, parameter.shape[0], parameter.shape[1]};
  }

  ModelConfig config_;
  LoraSettings settings_;
  std::vector<Parameter> parameters_;
  std::vector<TrainablePair> pairs_;
  size_t floats_ = 0;
  HugeBuffer values_, gradients_, first_moments_, second_moments_;
  std::vector<std::vector<std::vector<LoraGradient>>> sites_;  // [layer][site]
};

}  // namespace polylora
