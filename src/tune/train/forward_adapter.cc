#include "tune/train/forward_adapter.h"

#include <algorithm>
#include <cmath>

#include "model/dora.h"
#include "tune/train/base_matrix.h"

namespace polylora {
namespace {

constexpr int64_t kRowsAtOnce = 256;

/// Σ w² of each row of one linear module.
std::vector<float> row_squares(const Model& model, Backend& backend, int layer, const LinearModule& module) {
  const Weight& weight = *model.layers[static_cast<size_t>(layer)].at(module.site).weight;
  std::vector<float> squares, rows(static_cast<size_t>(kRowsAtOnce * module.k));
  for (int64_t begin = 0; begin < module.n_count; begin += kRowsAtOnce) {
    const Mat some(rows.data(), std::min(kRowsAtOnce, module.n_count - begin), module.k);
    read_rows(backend, weight, module.n_begin + begin, some);
    for (int64_t r = 0; r < some.rows; ++r) {
      double sum = 0.0;
      for (int64_t k = 0; k < some.cols; ++k) sum += double{some.row(r)[k]} * double{some.row(r)[k]};
      squares.push_back(static_cast<float>(sum));
    }
  }
  return squares;
}

std::vector<double> gram(ConstMat a) {
  std::vector<double> result;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.rows; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < a.cols; ++k) sum += double{a.row(i)[k]} * double{a.row(j)[k]};
      result.push_back(sum);
    }
  }
  return result;
}

}  // namespace

ForwardAdapter::ForwardAdapter(const Model& model, TrainingBackend& backend, const TrainableAdapter& trained,
                               DType dtype)
    : model_(model), backend_(backend), trained_(trained), dtype_(dtype) {
  if (!trained.settings().use_dora) return;
  const auto modules = linear_modules(model.config);
  for (const TrainablePair& pair : trained.pairs())
    base_squares_.push_back(
        row_squares(model, backend, pair.layer, modules[static_cast<size_t>(pair.module)]));
}

void ForwardAdapter::initialize_magnitudes(const Model& model, Backend& backend,
                                           const TrainableAdapter& trained) {
  if (!trained.settings().use_dora) return;
  const auto modules = linear_modules(model.config);
  for (const TrainablePair& pair : trained.pairs()) {
    const auto squares = row_squares(model, backend, pair.layer, modules[static_cast<size_t>(pair.module)]);
    float* magnitude = trained.value(trained.parameters()[pair.magnitude]).data;
    for (size_t n = 0; n < squares.size(); ++n) magnitude[n] = std::sqrt(squares[n]);
  }
}

void ForwardAdapter::initialize_full_matrices(const Model& model, Backend& backend,
                                              const TrainableAdapter& trained) {
  if (const Parameter* embedding = trained.full_matrix("embed_tokens"))
    read_rows(backend, *model.embedding, 0, trained.value(*embedding));
  if (const Parameter* head = trained.full_matrix("lm_head"))
    read_rows(backend, model.output_embedding(), 0, trained.value(*head));
}

void ForwardAdapter::refresh() {
  adapter_ = trained_.pack(backend_, dtype_);
  if (trained_.settings().use_dora) set_gains();
  embedding_ = pack_full("embed_tokens", *model_.embedding);
  lm_head_ = pack_full("lm_head", model_.output_embedding());
}

void ForwardAdapter::set_gains() {
  for (int layer = 0; layer < model_.config.num_layers; ++layer) {
    for (const Site site : sites(model_.config)) {
      if (trained_.gradients_at(layer, site).empty()) continue;
      std::vector<float> gain = gain_of(layer, site);
      std::vector<float> shift =
          bias_beside_gain(model_.layers[static_cast<size_t>(layer)].at(site).bias, gain);
      adapter_->set_columns(layer, site, std::move(gain), std::move(shift));
    }
  }
}

/// magnitude / ‖W + s·B·A‖ by rows, without forming the sum: ‖w + s·bA‖² = ‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·b.
std::vector<float> ForwardAdapter::gain_of(int layer, Site site) {
  const Weight& weight = *model_.layers[static_cast<size_t>(layer)].at(site).weight;
  const auto modules = linear_modules(model_.config);
  std::vector<float> gain(static_cast<size_t>(weight.rows()), 1.0f);
  for (size_t p = 0; p < trained_.pairs().size(); ++p) {
    const TrainablePair& pair = trained_.pairs()[p];
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    if (pair.layer != layer || module.site != site) continue;
    const ConstMat a = trained_.value(trained_.parameters()[pair.a]);
    const ConstMat b = trained_.value(trained_.parameters()[pair.b]);
    const ConstMat magnitude = trained_.value(trained_.parameters()[pair.magnitude]);
    const double s = trained_.settings().scale();
    std::vector<float> products(static_cast<size_t>(a.rows * weight.rows()));
    const Mat aw(products.data(), a.rows, weight.rows());  // A·Wᵀ
    backend_.linear(aw, a, weight, {});
    const std::vector<double> aa = gram(a);
    for (int64_t n = 0; n < module.n_count; ++n) {
      double cross = 0.0, square = 0.0;
      for (int64_t i = 0; i < a.rows; ++i) {
        cross += double{b.row(n)[i]} * double{aw.row(i)[module.n_begin + n]};
        for (int64_t j = 0; j < a.rows; ++j)
          square += double{b.row(n)[i]} * double{b.row(n)[j]} * aa[static_cast<size_t>(i * a.rows + j)];
      }
      const double norm2 =
          double{base_squares_[p][static_cast<size_t>(n)]} + 2.0 * s * cross + s * s * square;
      gain[static_cast<size_t>(module.n_begin + n)] =
          static_cast<float>(double{magnitude.data[n]} / std::sqrt(std::max(norm2, 1e-30)));
    }
  }
  return gain;
}

std::unique_ptr<Weight> ForwardAdapter::pack_full(std::string_view module, const Weight& original) const {
  const Parameter* parameter = trained_.full_matrix(module);
  if (parameter == nullptr) return nullptr;
  const bool exact = original.format() == WeightFormat::kF32;
  return backend_.pack_weight(rows_of(trained_.value(*parameter)),
                              exact ? WeightFormat::kF32 : WeightFormat::kBf16);
}

}  // namespace polylora
