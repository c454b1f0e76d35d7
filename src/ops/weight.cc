#include "ops/weight.h"

#include <algorithm>

namespace polylora {

std::string_view weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "float32";
    case WeightFormat::kBf16:
      return "bfloat16";
    case WeightFormat::kQ8:
      return "q8";
    case WeightFormat::kQ4:
      return "q4";
  }
  return "unknown";
}

WeightFormat native_format(const WeightSource& source) {
  const auto all = [&](auto holds) {
    return std::all_of(source.rows.begin(), source.rows.end(),
                       [&](const WeightSource::Row& row) { return holds(row.dtype); });
  };
  const auto is_4bit = [](DType dtype) { return dtype == DType::kQ4_0 || dtype == DType::kQ4_1; };
  if (all(is_4bit)) return WeightFormat::kQ4;
  if (all([&](DType dtype) { return is_4bit(dtype) || dtype == DType::kQ8_0; })) return WeightFormat::kQ8;
  if (all([](DType dtype) { return dtype == DType::kBf16; })) return WeightFormat::kBf16;
  return WeightFormat::kF32;
}

size_t kv_token_bytes(DType dtype, int layers, int kv_heads, int head_dim) {
  const size_t scale = dtype == DType::kI8 ? sizeof(float) : 0;
  return size_t{2} * static_cast<size_t>(layers) * static_cast<size_t>(kv_heads) *
         (dtype_row_bytes(dtype, head_dim) + scale);
}

}  // namespace polylora
