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

CodeFormat WeightSource::Row::codes() const {
  return matrix != nullptr ? matrix->code_format() : code_format(dtype);
}

std::string_view WeightSource::Row::format_name() const {
  return matrix != nullptr ? matrix->format_name() : dtype_name(dtype);
}

size_t WeightSource::Row::bytes(int64_t width) const {
  return matrix != nullptr ? matrix->row_bytes() : dtype_row_bytes(dtype, width);
}

int WeightSource::Row::read_codes(int64_t begin, int64_t width, CodeBlock& out) const {
  if (matrix != nullptr) {
    const auto count = static_cast<int>(std::min<int64_t>(CodeBlock::kMax, width - begin));
    matrix->read_codes(index, begin, count, out);
    return count;
  }
  polylora::read_codes(dtype, static_cast<const std::byte*>(data) + dtype_row_bytes(dtype, begin), out);
  return dtype_block_size(dtype);
}

void WeightSource::Row::read(int64_t width, float* out) const {
  if (matrix != nullptr) return matrix->read_row(index, out);
  dequantize_row(dtype, data, width, out);
}

WeightSource rows_of(ConstMat matrix) {
  WeightSource source{.cols = matrix.cols, .rows = {}};
  for (int64_t r = 0; r < matrix.rows; ++r) source.rows.push_back({matrix.row(r), DType::kF32});
  return source;
}

WeightFormat native_format(const WeightSource& source) {
  const auto all = [&](auto holds) { return std::all_of(source.rows.begin(), source.rows.end(), holds); };
  using Row = WeightSource::Row;
  const auto fits_q4 = [](const Row& row) {
    const CodeFormat codes = row.codes();
    return codes.bits != 0 && (codes.bits <= 3 || (codes.bits == 4 && codes.group == 32));
  };
  if (all(fits_q4)) return WeightFormat::kQ4;
  if (all([](const Row& row) { return row.codes().bits != 0; })) return WeightFormat::kQ8;
  if (all([](const Row& row) { return row.is_plain(DType::kBf16); })) return WeightFormat::kBf16;
  return WeightFormat::kF32;
}

size_t kv_token_bytes(DType dtype, int layers, int kv_heads, int head_dim) {
  const size_t scale = dtype == DType::kI8 ? sizeof(float) : 0;
  return size_t{2} * static_cast<size_t>(layers) * static_cast<size_t>(kv_heads) *
         (dtype_row_bytes(dtype, head_dim) + scale);
}

}  // namespace polylora
