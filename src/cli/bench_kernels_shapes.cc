// The models whose shapes `bench kernels` measures, and weights for them.
#include <cstring>

#include "cli/bench_kernels.h"

namespace polylora {
namespace {

DType stored_as(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return DType::kF32;
    case WeightFormat::kBf16:
      return DType::kBf16;
    case WeightFormat::kQ8:
      return DType::kQ8_0;
    default:
      return DType::kQ4_1;
  }
}

/// Overwrites the numbers that scale a block, or the whole value, with something sane.
void put_scale(DType dtype, std::byte* block) {
  const float value = 0.01f;
  const uint16_t bf16 = f32_to_bf16(value), f16 = f32_to_f16(value);
  if (dtype == DType::kF32) {
    std::memcpy(block, &value, sizeof value);
  } else {
    std::memcpy(block, dtype == DType::kBf16 ? &bf16 : &f16, sizeof f16);
  }
  if (dtype == DType::kQ4_1) std::memcpy(block + 2, &f16, sizeof f16);
}

}  // namespace

LinearShape LlamaShape::qkv() const {
  const int64_t q = int64_t{heads} * head_dim, kv = int64_t{kv_heads} * head_dim;
  return {name + " qkv", hidden, q + 2 * kv, {{0, q}, {q, kv}, {q + kv, kv}}};
}
LinearShape LlamaShape::o() const {
  return {name + " o", int64_t{heads} * head_dim, hidden, {{0, hidden}}};
}
LinearShape LlamaShape::gate_up() const {
  return {name + " gate_up", hidden, 2 * feed_forward, {{0, feed_forward}, {feed_forward, feed_forward}}};
}
LinearShape LlamaShape::down() const {
  return {name + " down", feed_forward, hidden, {{0, hidden}}};
}
LinearShape LlamaShape::lm_head() const {
  return {name + " lm_head", hidden, vocabulary, {{0, vocabulary}}};
}

const std::vector<LlamaShape>& bench_shapes() {
  static const std::vector<LlamaShape> shapes = {{"SmolLM2", 576, 1536, 9, 3, 64, 49152},
                                                 {"1B", 2048, 8192, 32, 8, 64, 128256}};
  return shapes;
}

RandomCheckpoint::RandomCheckpoint(WeightFormat format, int64_t n, int64_t k) {
  const DType dtype = stored_as(format);
  const size_t row_bytes = dtype_row_bytes(dtype, k);
  const auto block_bytes = static_cast<size_t>(dtype_block_bytes(dtype));
  bytes_.resize(row_bytes * static_cast<size_t>(n));
  for (size_t at = 0; at < bytes_.size(); ++at) bytes_[at] = static_cast<std::byte>(at * 2654435761u >> 13);
  for (size_t at = 0; at < bytes_.size(); at += block_bytes) put_scale(dtype, &bytes_[at]);
  source_.cols = k;
  for (size_t at = 0; at < bytes_.size(); at += row_bytes) source_.rows.push_back({&bytes_[at], dtype});
}

double Peaks::*peak_of(WeightFormat format) {
  if (format == WeightFormat::kF32) return &Peaks::f32;
  return format == WeightFormat::kBf16 ? &Peaks::bf16 : &Peaks::int8;
}

}  // namespace polylora
