// The parameters under training as the forward pass uses them: packed, with DoRA's gains.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "model/adapter.h"
#include "model/weights.h"
#include "ops/training_backend.h"
#include "tune/train/trainable_adapter.h"

namespace polylora {

class ForwardAdapter {
 public:
  /// `dtype` kBf16 or kF32. All must outlive this. Nothing is packed before the first refresh().
  ForwardAdapter(const Model& model, TrainingBackend& backend, const TrainableAdapter& trained, DType dtype);

  /// What DoRA starts from: magnitude = the norms of the base's rows. To be called before refresh() in a new
  /// run.
  static void initialize_magnitudes(const Model& model, Backend& backend, const TrainableAdapter& trained);
  /// Matrices trained in full start as the base's.
  static void initialize_full_matrices(const Model& model, Backend& backend, const TrainableAdapter& trained);

  /// After every update: packs the current values.
  void refresh();

  const Adapter& adapter() const { return *adapter_; }
  const Weight* embedding() const { return embedding_.get(); }  // null: the model's own
  const Weight* lm_head() const { return lm_head_.get(); }

 private:
  void set_gains();
  std::vector<float> gain_of(int layer, Site site);
  std::unique_ptr<Weight> pack_full(std::string_view module, const Weight& original) const;

  const Model& model_;
  TrainingBackend& backend_;
  const TrainableAdapter& trained_;
  DType dtype_;
  std::vector<std::vector<float>> base_squares_;  // DoRA: per pair, the squared norms of the base's rows
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<Weight> embedding_, lm_head_;
};

}  // namespace polylora
