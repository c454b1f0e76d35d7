#include "io/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/quant.h"

namespace polylora {
namespace {

uint32_t load_unit(const std::byte* at, int unit_bits) {
  uint32_t value = 0;
  std::memcpy(&value, at, static_cast<size_t>(unit_bits / 8));
  return value;
}

class IntegerMatrix final : public StoredMatrix {
 public:
  explicit IntegerMatrix(IntegerLayout layout) : layout_(std::move(layout)) {
    const bool in_groups = layout_.column_groups.empty() && layout_.group % kQuantGroup == 0;
    format_ = {.bits = layout_.codes.bits,
               .group = in_groups ? kQuantGroup : 1,
               .zero_point = 1 << (layout_.codes.bits - 1)};
    format_.has_min = !is_symmetric();
    if (format_.has_min) format_.zero_point = 0;
  }

  CodeFormat code_format() const override { return format_; }
  std::string_view format_name() const override { return layout_.name; }
  size_t row_bytes() const override {
    return static_cast<size_t>(layout_.cols) * static_cast<size_t>(layout_.codes.bits) / 8;
  }

  void read_codes(int64_t row, int64_t begin, int count, CodeBlock& out) const override {
    for (int i = 0; i < count; ++i) out.q[i] = static_cast<uint8_t>(layout_.codes.get(row, begin + i));
    for (int g = 0; g < count / kQuantGroup; ++g) {
      const int64_t group = (begin + g * kQuantGroup) / layout_.group;
      out.scale[g] = layout_.scales.get(row, group);
      out.min[g] = format_.has_min ? -out.scale[g] * static_cast<float>(zero(row, group)) : 0.0f;
    }
  }

  void read_row(int64_t row, float* out) const override {
    int64_t last = -1;
    float scale = 0.0f;
    int zero_point = 0;
    for (int64_t k = 0; k < layout_.cols; ++k) {
      const int64_t group = group_of(k);
      if (group != last) {
        last = group;
        scale = layout_.scales.get(row, group);
        zero_point = zero(row, group);
      }
      out[k] = scale * static_cast<float>(layout_.codes.get(row, k) - zero_point);
    }
  }

 private:
  int64_t group_of(int64_t k) const {
    return layout_.column_groups.empty() ? k / layout_.group : layout_.column_groups[static_cast<size_t>(k)];
  }

  int zero(int64_t row, int64_t group) const {
    const int top = (1 << layout_.codes.bits) - 1;
    if (!layout_.zeros) return 1 << (layout_.codes.bits - 1);
    return (layout_.zeros->get(row, group) + layout_.zero_offset) & top;
  }

  /// Formats that always store zeros store the middle of the range for symmetric codes.
  bool is_symmetric() const {
    if (!layout_.zeros) return true;
    for (int64_t group = 0; group < layout_.groups; ++group) {
      for (int64_t row = 0; row < layout_.rows; ++row) {
        if (zero(row, group) != format_.zero_point) return false;
      }
    }
    return true;
  }

  IntegerLayout layout_;
  CodeFormat format_;
};

class Fp8Matrix final : public StoredMatrix {
 public:
  Fp8Matrix(const TensorView& weight, const ScaleGrid& scales, int64_t col_block)
      : data_(weight.data.data()), cols_(weight.shape[1]), scales_(scales), col_block_(col_block) {}

  CodeFormat code_format() const override { return {.bits = 8, .group = 1}; }
  std::string_view format_name() const override { return "FP8"; }
  size_t row_bytes() const override { return static_cast<size_t>(cols_); }
  /// Unreachable: groups of one have no codes.
  void read_codes(int64_t, int64_t, int, CodeBlock&) const override {}

  void read_row(int64_t row, float* out) const override {
    dequantize_row(DType::kF8E4m3, data_ + row * cols_, cols_, out);
    for (int64_t begin = 0; begin < cols_; begin += col_block_) {
      const float scale = scales_.get(row, begin / col_block_);
      for (int64_t k = begin; k < std::min(begin + col_block_, cols_); ++k) out[k] *= scale;
    }
  }

 private:
  const std::byte* data_;
  int64_t cols_;
  ScaleGrid scales_;
  int64_t col_block_;
};

}  // namespace

int PackedInts::get(int64_t row, int64_t col) const {
  constexpr int kPlaces[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of the values in an interleaved word
  int64_t packed = along_rows ? row : col;
  const int64_t other = along_rows ? col : row;
  if (is_interleaved) packed = packed / 8 * 8 + kPlaces[packed % 8];
  const int64_t bit = packed * bits;
  const auto shift = static_cast<int>(bit % unit_bits);
  const std::byte* at = data + bit / unit_bits * packed_stride + other * other_stride;
  uint32_t value = load_unit(at, unit_bits) >> shift;
  if (shift + bits > unit_bits) value |= load_unit(at + packed_stride, unit_bits) << (unit_bits - shift);
  return static_cast<int>((value & ((1u << bits) - 1)) ^ flip);
}

float ScaleGrid::get(int64_t row, int64_t group) const {
  const int64_t index = row / row_block * row_stride + group * group_stride;
  float value;
  dequantize_row(dtype, data + index * dtype_block_bytes(dtype), 1, &value);
  return value;
}

std::unique_ptr<StoredMatrix> make_integer_matrix(IntegerLayout layout) {
  return std::make_unique<IntegerMatrix>(std::move(layout));
}

std::unique_ptr<StoredMatrix> make_fp8_matrix(const TensorView& weight, const ScaleGrid& scales,
                                              int64_t col_block) {
  return std::make_unique<Fp8Matrix>(weight, scales, col_block);
}

}  // namespace polylora
