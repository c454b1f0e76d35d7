// Adapters merged into a base model, tensor by tensor and a few rows at a time: no forward pass, no fused
// weights, hence any architecture.
//
// The arithmetic is PEFT's merge_and_unload (peft/tuners/lora/layer.py) on a model loaded in `dtype`: the
// stored weight is rounded to `dtype`; for each adapter in turn W + s·(B·A) is computed in f32, the product
// first, and rounded to `dtype` once. So two adapters merged into a bf16 model round twice, as two successive
// merges do, and a float32 model is only rounded when it is written.
//   LoRA      W += s·(B·A)                      lora_bias  bias += s·(bias of B)
//   DoRA      W  = m / ‖W + s·(B·A)‖ · (W + s·(B·A)), norms over each output row
//   embedding, fan_in_fan_out                   W += s·(B·A)ᵀ
//   modules_to_save, bias: lora_only or all     the base's values are replaced
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/base_tensors.h"
#include "io/peft_adapter.h"
#include "ops/training_backend.h"

namespace polylora {

/// What one adapter does to one tensor [N,K] (or, bias, [N]), in this order; null: nothing.
struct TensorEdit {
  const TensorView* replacement = nullptr;  // the tensor's shape
  const TensorView* a = nullptr;            // [R,K]; transposed: B, [K,R]
  const TensorView* b = nullptr;            // [N,R]; transposed: A, [R,N]
  const TensorView* magnitude = nullptr;    // [N]
  const TensorView* addend = nullptr;       // [N], for a bias
  float scale = 1.0f;                       // of the product and of the addend
  bool transposed = false;
};

/// Which tensors change, and how. Points into the adapters, which must outlive it.
class MergePlan {
 public:
  /// Checks all shapes. Refused with what, where and why: an adapter tensor that matches no tensor of the
  /// base, a wrong shape, a combination that has no meaning.
  MergePlan(const BaseTensors& base, std::span<const PeftAdapter> adapters);

  /// In the adapters' order; empty: the tensor stays as it is.
  std::span<const TensorEdit> edits(const std::string& tensor) const;
  size_t changed_tensors() const { return edits_.size(); }

  /// The base ties lm_head to the embedding and the adapters change only one of them (LoRA on a tied
  /// embedding leaves what lm_head computes with alone): lm_head.weight must be written too, from the
  /// embedding's base values and its own edits.
  bool unties() const { return unties_; }

 private:
  void add_module(const BaseTensors& base, const PeftAdapter& adapter, const std::string& path,
                  const PeftModule& module);
  void decide_tying(const BaseTensors& base, std::span<const PeftAdapter> adapters);

  std::map<std::string, std::vector<TensorEdit>> edits_;  // by tensor name
  bool unties_ = false;
};

/// The embedding that lm_head may be tied to; null: this model has none of the usual names.
const BaseTensor* input_embedding(const BaseTensors& base);

/// Computes merged rows. One thread each.
class RowMerger {
 public:
  /// `dtype`: what PEFT would have loaded the model in (kF32, kF16, kBf16).
  RowMerger(TrainingBackend& backend, DType dtype) : backend_(backend), dtype_(dtype) {}

  /// out[i] = row rows[i] of the tensor after all edits. The last step's rounding is left to the caller, who
  /// narrows the values to the written dtype anyway.
  void merge(const BaseTensor& tensor, std::span<const TensorEdit> edits, std::span<const int64_t> rows,
             Mat out);

 private:
  void apply(const TensorEdit& edit, std::span<const int64_t> rows, Mat w);
  void add_product(const TensorEdit& edit, std::span<const int64_t> rows, Mat w);
  void apply_magnitude(const TensorEdit& edit, std::span<const int64_t> rows, Mat w);
  void round(Mat w) const;

  TrainingBackend& backend_;
  DType dtype_;
  const TensorView* held_ = nullptr;  // whose values a_ has
  std::vector<float> a_, b_;
};

}  // namespace polylora
