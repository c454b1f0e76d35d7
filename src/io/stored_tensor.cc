#include "io/stored_tensor.h"

#include <cstring>

#include "base/error.h"

namespace polylora {
namespace {

bool is_block_format(DType dtype) {
  return dtype_block_size(dtype) > 1;
}

/// out[r, c] = in[c, r] of elements of `size` bytes; out is rows × cols.
void transpose(const std::byte* in, size_t rows, size_t cols, size_t size, std::byte* out) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c)
      std::memcpy(out + (r * cols + c) * size, in + (c * rows + r) * size, size);
  }
}

/// Row i of a head comes from its stored row 2i, row i + E/2 from 2i + 1.
void deinterleave(const std::byte* in, size_t rows, size_t row_bytes, size_t head_dim, std::byte* out) {
  for (size_t row = 0; row < rows; ++row) {
    const size_t within = row % head_dim, half = head_dim / 2;
    const size_t from = row - within + within % half * 2 + within / half;
    std::memcpy(out + row * row_bytes, in + from * row_bytes, row_bytes);
  }
}

/// The stored values in `as`, still in the stored layout.
std::span<const std::byte> converted(const TensorView& stored, DType as, std::vector<std::byte>& room) {
  if (stored.dtype == as) return stored.data;
  check(as == DType::kF32, "adapter values are widened to F32 or not at all");
  const auto blocks = stored.data.size() / static_cast<size_t>(dtype_block_bytes(stored.dtype));
  const auto count = static_cast<int64_t>(blocks) * dtype_block_size(stored.dtype);
  room.resize(static_cast<size_t>(count) * sizeof(float));
  dequantize_row(stored.dtype, stored.data.data(), count, reinterpret_cast<float*>(room.data()));
  return room;
}

}  // namespace

DType StoredTensor::dtype() const {
  return is_block_format(stored.dtype) ? DType::kF32 : stored.dtype;
}

TensorView StoredTensor::read(DType as, std::vector<std::byte>& room) const {
  if (layout == StoredLayout::kRows) return {as, shape, converted(stored, as, room)};
  std::vector<std::byte> widened;
  const std::span<const std::byte> values = converted(stored, as, widened);
  const auto rows = static_cast<size_t>(shape[0]), cols = static_cast<size_t>(shape[1]);
  const auto size = static_cast<size_t>(dtype_block_bytes(as));
  room.resize(values.size());
  if (layout == StoredLayout::kTransposed) {
    transpose(values.data(), rows, cols, size, room.data());
  } else {
    deinterleave(values.data(), rows, cols * size, static_cast<size_t>(head_dim), room.data());
  }
  return {as, shape, room};
}

void check_finite(const TensorView& values, const std::string& where) {
  const auto bytes_each = static_cast<size_t>(dtype_block_bytes(values.dtype));
  const auto count = static_cast<int64_t>(values.data.size() / bytes_each);
  if (!all_finite(values.dtype, values.data.data(), count))
    fail(ErrorCode::kDataCorrupt, "{} holds NaN or infinity", where);
}

}  // namespace polylora
