#include "tune/train/pissa.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "tune/train/base_matrix.h"

namespace polylora {
namespace {

constexpr int kMostIterations = 200;  // of "until nothing changes"
constexpr double kConverged = 1e-6;

/// rank rows of `width` floats.
struct Basis {
  Basis(int64_t rank, int64_t width)
      : values(static_cast<size_t>(rank * width)), mat(values.data(), rank, width) {}
  std::vector<float> values;
  Mat mat;
};

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

/// Gram-Schmidt, twice for f32's sake. A row that depends on those before it becomes zero.
void orthonormalize(Mat rows) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    const double before = std::sqrt(dot(rows.row(r), rows.row(r), rows.cols));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t s = 0; s < r; ++s) {
        const auto along = static_cast<float>(dot(rows.row(r), rows.row(s), rows.cols));
        for (int64_t i = 0; i < rows.cols; ++i) rows.row(r)[i] -= along * rows.row(s)[i];
      }
    }
    const double norm = std::sqrt(dot(rows.row(r), rows.row(r), rows.cols));
    const auto inverse = static_cast<float>(norm > 1e-7 * before && norm > 0.0 ? 1.0 / norm : 0.0);
    for (int64_t i = 0; i < rows.cols; ++i) rows.row(r)[i] *= inverse;
  }
}

/// Eigenvectors (rows) and eigenvalues of a symmetric matrix, largest first: cyclic Jacobi rotations.
struct Eigen {
  std::vector<double> vectors, values;
};

Eigen symmetric_eigen(std::vector<double> m, size_t n) {
  std::vector<double> v(n * n);
  for (size_t i = 0; i < n; ++i) v[i * n + i] = 1.0;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0.0, diagonal = 0.0;
    for (size_t i = 0; i < n; ++i) {
      diagonal += m[i * n + i] * m[i * n + i];
      for (size_t j = i + 1; j < n; ++j) off += m[i * n + j] * m[i * n + j];
    }
    if (off <= 1e-24 * diagonal) break;
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        if (m[p * n + q] == 0.0) continue;
        const double theta = (m[q * n + q] - m[p * n + p]) / (2.0 * m[p * n + q]);
        const double t = (theta >= 0 ? 1.0 : -1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0), s = t * c;
        for (size_t k = 0; k < n; ++k) {
          const double a = m[k * n + p], b = m[k * n + q];
          m[k * n + p] = c * a - s * b;
          m[k * n + q] = s * a + c * b;
        }
        for (size_t k = 0; k < n; ++k) {
          const double a = m[p * n + k], b = m[q * n + k];
          m[p * n + k] = c * a - s * b;
          m[q * n + k] = s * a + c * b;
          const double e = v[p * n + k], f = v[q * n + k];
          v[p * n + k] = c * e - s * f;
          v[q * n + k] = s * e + c * f;
        }
      }
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return m[a * n + a] > m[b * n + b]; });
  Eigen eigen;
  for (const size_t i : order) {
    eigen.values.push_back(m[i * n + i]);
    eigen.vectors.insert(eigen.vectors.end(), v.begin() + static_cast<std::ptrdiff_t>(i * n),
                         v.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
  }
  return eigen;
}

/// Factors of one matrix's principal part.
class PrincipalPart {
 public:
  PrincipalPart(TrainingBackend& backend, Mat w, int64_t rank, uint64_t seed, uint64_t stream)
      : backend_(backend), left_(rank, w.rows), right_(rank, w.cols) {
    weight_ = backend.pack_weight(rows_of(w), WeightFormat::kF32);
    for (size_t i = 0; i < right_.values.size(); ++i) {
      double sum = -6.0;  // nearly normal
      for (uint64_t j = 0; j < 12; ++j) sum += random_uniform(seed, stream, 12 * i + j);
      right_.values[i] = static_cast<float>(sum);
    }
  }

  /// One round: left = orthonormal basis of W·right, right = Wᵀ·left. Returns the sum of squared singular
  /// values that the subspace holds.
  double iterate() {
    orthonormalize(right_.mat);
    backend_.linear(left_.mat, right_.mat, *weight_, {});
    orthonormalize(left_.mat);
    backend_.linear_dx(right_.mat, left_.mat, *weight_, false);
    return dot(right_.values.data(), right_.values.data(), static_cast<int64_t>(right_.values.size()));
  }

  /// Right holds Wᵀ·left: its small SVD turns both into singular vectors. A = sqrt(s/scale)·v, B =
  /// u·sqrt(s/scale).
  void write(Mat a, Mat b, double scale) const {
    const auto n = static_cast<size_t>(a.rows);
    std::vector<double> gram(n * n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j)
        gram[i * n + j] = dot(right_.mat.row(static_cast<int64_t>(i)),
                              right_.mat.row(static_cast<int64_t>(j)), right_.mat.cols);
    }
    const Eigen eigen = symmetric_eigen(std::move(gram), n);
    for (size_t r = 0; r < n; ++r) {
      const double s = std::sqrt(std::max(0.0, eigen.values[r])), root = std::sqrt(s / scale);
      const double* e = eigen.vectors.data() + r * n;
      mix(right_.mat, e, s > 0.0 ? root / s : 0.0,
          [&](int64_t i) -> float& { return a.row(static_cast<int64_t>(r))[i]; });
      mix(left_.mat, e, root, [&](int64_t i) -> float& { return b.row(i)[r]; });
    }
  }

 private:
  template <typename At>
  static void mix(ConstMat rows, const double* weights, double factor, At at) {
    for (int64_t i = 0; i < rows.cols; ++i) {
      double sum = 0.0;
      for (int64_t r = 0; r < rows.rows; ++r) sum += weights[r] * double{rows.row(r)[i]};
      at(i) = static_cast<float>(factor * sum);
    }
  }

  TrainingBackend& backend_;
  std::unique_ptr<Weight> weight_;
  Basis left_, right_;
};

void decompose(TrainingBackend& backend, Mat w, Mat a, Mat b, float scale, int iterations, uint64_t seed,
               uint64_t stream) {
  PrincipalPart part(backend, w, a.rows, seed, stream);
  const int rounds = iterations < 0 ? kMostIterations : iterations + 1;
  double before = 0.0;
  for (int round = 0; round < rounds; ++round) {
    const double held = part.iterate();
    if (iterations < 0 && held - before <= kConverged * held) break;
    before = held;
  }
  part.write(a, b, scale);
  backend.lora_merge(w, a, b, -scale);
}

}  // namespace

void initialize_pissa(Model& model, TrainingBackend& backend, TrainableAdapter& trained, int iterations,
                      uint64_t seed) {
  const uint64_t modules = linear_modules(model.config).size();
  for (int layer = 0; layer < model.config.num_layers; ++layer) {
    for (const Site site : sites(model.config)) {
      if (trained.gradients_at(layer, site).empty()) continue;
      edit_base_matrix(model, backend, layer, site, [&](int module, Mat rows) {
        for (const TrainablePair& pair : trained.pairs()) {
          if (pair.layer != layer || pair.module != module) continue;
          const auto stream = static_cast<uint64_t>(layer) * modules + static_cast<uint64_t>(module);
          decompose(backend, rows, trained.value(trained.parameters()[pair.a]),
                    trained.value(trained.parameters()[pair.b]), trained.settings().scale(), iterations, seed,
                    stream);
        }
      });
    }
  }
}

}  // namespace polylora
