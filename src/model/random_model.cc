#include "model/random_model.h"

#include <cmath>
#include <deque>
#include <vector>

#include "base/rng.h"

namespace polylora {
namespace {

constexpr int64_t kDistinctRows = 64;

/// bf16, uniform, with the spread that keeps a product with unit inputs near one.
std::vector<uint16_t> random_matrix(int64_t rows, int64_t cols) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(cols));
  std::vector<uint16_t> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = f32_to_bf16(static_cast<float>(scale * (2.0 * random_uniform(1, 2, i) - 1.0)));
  return values;
}

std::unique_ptr<Weight> random_weight(Backend& backend, int64_t rows, int64_t cols, WeightFormat format) {
  const std::vector<uint16_t> values = random_matrix(kDistinctRows, cols);
  WeightSource source{.cols = cols, .rows = {}};
  for (int64_t r = 0; r < rows; ++r)
    source.rows.push_back({values.data() + r % kDistinctRows * cols, DType::kBf16});
  return backend.pack_weight(source, format);
}

}  // namespace

std::unique_ptr<Model> make_random_model(const ModelConfig& config, Backend& backend, WeightFormat format) {
  const auto d = static_cast<size_t>(config.hidden_size);
  auto model = std::make_unique<Model>();
  model->config = config;
  model->embedding = random_weight(backend, config.vocab_size, config.hidden_size, format);
  if (!config.tie_word_embeddings)
    model->lm_head = random_weight(backend, config.vocab_size, config.hidden_size, format);
  model->final_norm.assign(d, 1.0f);
  model->layers = make_layers(config);
  if (config.embedding_scale != 1.0f) model->embedding_gain.assign(d, config.embedding_scale);
  for_each_tensor(config, [&](const TensorSpec& spec) {
    if (spec.role != TensorSpec::Role::kNorm) return;
    model->layers[static_cast<size_t>(spec.layer)]
        .norm(static_cast<Norm>(spec.module))
        .assign(static_cast<size_t>(spec.rows), 1.0f);
  });
  for (Layer& out : model->layers) {
    for (const LinearModule& module : linear_modules(config)) {
      Linear& linear = out.at(module.site);
      if (linear.weight) continue;
      linear.weight = random_weight(backend, site_rows(config, module.site), module.k,
                                    module.site == Site::kRouter ? WeightFormat::kF32 : format);
      if (module.has_bias) linear.bias.assign(static_cast<size_t>(site_rows(config, module.site)), 0.0f);
    }
  }
  return model;
}

std::unique_ptr<Adapter> make_random_adapter(const ModelConfig& config, Backend& backend, int64_t rank,
                                             DType dtype) {
  auto adapter = std::make_unique<Adapter>(config);
  const std::vector<LinearModule> modules = linear_modules(config);
  for (const Site site : sites(config)) {
    LoraSource source{.k = 0, .n = site_rows(config, site), .pairs = {}};
    std::deque<std::vector<uint16_t>> matrices;
    for (const LinearModule& module : modules) {
      if (module.site != site || !is_linear_layer(module)) continue;
      source.k = module.k;
      const void* a = matrices.emplace_back(random_matrix(rank, module.k)).data();
      const void* b = matrices.emplace_back(random_matrix(module.n_count, rank)).data();
      source.pairs.push_back({module.n_begin, module.n_count, rank, 1.0f, a, b, DType::kBf16});
    }
    for (int layer = 0; layer < config.num_layers && !source.pairs.empty(); ++layer)
      adapter->set(layer, site, backend.pack_lora(source, dtype));
  }
  return adapter;
}

}  // namespace polylora
