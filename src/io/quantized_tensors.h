// The quantised matrices of a Hugging Face checkpoint, by config.json's quantization_config:
//   gptq                {qweight, qzeros, scales, g_idx}, 2, 3, 4 or 8 bits, checkpoint_format gptq or
//   gptq_v2 awq                 {qweight, qzeros, scales}, version gemm, 4 bits compressed-tensors
//   {weight_packed, weight_scale[, weight_zero_point, weight_g_idx]} of 4 or 8 bits;
//                       {weight as I8 or F8_E4M3, weight_scale[, weight_zero_point]}
//   fp8, fbgemm_fp8     {weight as F8_E4M3, weight_scale or weight_scale_inv}
// Bits, groups and widths are what the shapes say.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "io/safetensors.h"
#include "ops/weight.h"

namespace polylora {

struct QuantizedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::unique_ptr<StoredMatrix> stored;
};

using TensorsByName = std::map<std::string, const TensorView*>;

/// By the name that the unquantised matrix would have ("….weight"). Empty for a checkpoint that is not
/// quantised. Throws kUnsupported for another method, named; kDataCorrupt for shapes that do not fit
/// together. `where` is config.json's path. What the views point into must outlive the result.
std::map<std::string, QuantizedMatrix> find_quantized_matrices(const nlohmann::json& config,
                                                               const TensorsByName& tensors,
                                                               const std::string& where);

/// "gptq", "bitsandbytes", …: what config.json says; empty for an unquantised model.
std::string quantization_method(const nlohmann::json& config);

}  // namespace polylora
