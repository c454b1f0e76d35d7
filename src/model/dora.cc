#include "model/dora.h"

#include <cmath>

#include "base/dtype.h"

namespace polylora {
namespace {

std::vector<float> as_floats(DType dtype, const void* data, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  dequantize_row(dtype, data, count, values.data());
  return values;
}

void add_scaled(float* y, const float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

float norm(const std::vector<float>& row) {
  double sum = 0.0;
  for (const float value : row) sum += double{value} * double{value};
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace

std::vector<float> bias_beside_gain(std::span<const float> bias, std::span<const float> gain) {
  std::vector<float> rest;
  for (size_t n = 0; n < bias.size(); ++n) rest.push_back(bias[n] * (1.0f - gain[n]));
  return rest;
}

std::vector<float> adapted_row_norms(const Weight& w, const LoraPairSource& pair) {
  const int64_t k = w.cols();
  const std::vector<float> a = as_floats(pair.dtype, pair.a, pair.rank * k);
  const std::vector<float> b = as_floats(pair.dtype, pair.b, pair.n_count * pair.rank);
  std::vector<float> norms, row(static_cast<size_t>(k));
  for (int64_t n = 0; n < pair.n_count; ++n) {
    w.read_row(pair.n_begin + n, row.data());
    for (int64_t r = 0; r < pair.rank; ++r) {
      const float factor = pair.scale * b[static_cast<size_t>(n * pair.rank + r)];
      add_scaled(row.data(), a.data() + r * k, factor, k);
    }
    norms.push_back(norm(row));
  }
  return norms;
}

}  // namespace polylora
