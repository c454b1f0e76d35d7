// The specification of what training computes, in naive loops over plain matrices; ref_backend.cc calls it.
// Shapes and meanings: ops/training_backend.h.
#pragma once

#include <span>

#include "ops/training_backend.h"

namespace polylora::ref {

/// `value` as it survives being stored in `dtype` (kF32 or kBf16).
float round_to(DType dtype, float value);

void lora_backward(Mat dx, ConstMat dy, ConstMat x, const LoraGradient& pair, DType dtype);
void rmsnorm_backward(Mat dx, ConstMat dy, ConstMat x, std::span<const float> gain, float eps);
void attention_backward(Mat dq, Mat dk, Mat dv, ConstMat d_o, ConstMat o, ConstMat lse, ConstMat q,
                        ConstMat k, ConstMat v, int head_dim, const SequenceSpan& span,
                        const AttentionParams& params, DType dtype);
void glu_backward(Mat dgate_up, ConstMat dy, ConstMat gate_up, GluActivation activation);
float cross_entropy_row(std::span<float> logits, int32_t target, float weight);
void dropout(Mat y, ConstMat x, float p, const RandomKeys& keys, bool accumulate);
void add_noise(Mat y, std::span<const float> scale, const RandomKeys& keys);
void linear_dw(Mat dw, ConstMat dy, ConstMat x, DType dtype);
void adamw(std::span<float> p, std::span<float> m, std::span<float> v, std::span<const float> g,
           const AdamwParams& params);

}  // namespace polylora::ref
