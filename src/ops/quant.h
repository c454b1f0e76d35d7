// Groups of 32 values as small integers: how q8 and q4 weights and their activations are rounded.
//
// This is the one definition that `ref` and `cpu` share. A weight group is w[i] = scale * (q[i] - zero_point)
// + min with unsigned q. A matrix uses one of two schemes for all of its rows:
//   symmetric   zero_point is 128 (q8) or 8 (q4), min is 0     Q8_0, Q4_0, …, and other rows rounded to q8
//   with min    zero_point is 0                                Q4_1, Q4_K, …, and other rows rounded to q4
// Symmetric rows inside a with-min matrix take min = -zero_point * scale, which loses nothing: a power of
// two. Codes in groups of 32 that fit the format are kept; scales and mins are rounded to f16.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/weight.h"

namespace polylora {

inline constexpr int kQuantGroup = 32;

struct QuantScheme {
  int zero_point = 0;
  bool has_min = false;
};

struct QuantGroup {
  uint8_t q[kQuantGroup];  // 0..255 for q8, 0..15 for q4; one byte each also for q4
  uint16_t scale;          // f16
  uint16_t min;            // f16; 0 in a symmetric scheme
};

/// The scheme that keeps the codes of every row of `source` that fit. `format` is kQ8 or kQ4.
QuantScheme quant_scheme(const WeightSource& source, WeightFormat format);

/// One stored row -> cols/32 groups. Throws kUnsupported for a scale that no f16 can hold.
void quantize_row(const WeightSource::Row& row, int64_t cols, WeightFormat format, QuantScheme scheme,
                  QuantGroup* groups);

/// Activations: x[i] ≈ scale * q[i] with q in [-127, 127], rounded to nearest even. Groups whose largest
/// magnitude is below kTinyActivation become zero, so that 127/amax cannot overflow.
inline constexpr float kTinyActivation = 1e-30f;

struct ActivationGroup {
  int8_t q[kQuantGroup];
  float scale;
};

ActivationGroup quantize_activations(const float* x);

/// A LoRA pair held as int8: A[r,k] ≈ a_scale[r] * a[r,k] and B[n,r] ≈ b_scale[r] * b[n,r], all in [-127,
/// 127]. Both scales belong to a rank, so they are factors of h and the products have none of their own:
///   y[n] += Σr b[n,r] * round8(h_scale[r] * Σk a[r,k] * round8(x)[k]),  h_scale = pair.scale * a_scale *
///   b_scale
/// round8 is quantize_activations' rounding, here of groups of kInt8Group adjacent values.
struct Int8LoraPair {
  std::vector<int8_t> a;       // [rank, K]
  std::vector<int8_t> b;       // [n_count, rank]
  std::vector<float> h_scale;  // [rank]
};

inline constexpr int kInt8Group = 16;

Int8LoraPair quantize_lora_pair(const LoraPairSource& pair, int64_t k);

/// x[i] = round8(x[i]) in place.
void round_to_int8_groups(float* x, int64_t n);

}  // namespace polylora
