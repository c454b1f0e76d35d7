#include "model/random_model.h"

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace polylora {
namespace {

constexpr int64_t kDistinctRows = 64;

std::unique_ptr<Weight> random_weight(Backend& backend, int64_t rows, int64_t cols, WeightFormat format) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(cols));
  std::vector<uint16_t> values(static_cast<size_t>(kDistinctRows * cols));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = f32_to_bf16(static_cast<float>(scale * (2.0 * random_uniform(1, 2, i) - 1.0)));
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
  for (int layer = 0; layer < config.num_layers; ++layer) {
    Layer& out = model->layers.emplace_back();
    out.input_norm.assign(d, 1.0f);
    out.post_attention_norm.assign(d, 1.0f);
    for (const LinearModule& module : linear_modules(config)) {
      Linear& linear = out.at(module.site);
      if (linear.weight) continue;
      linear.weight = random_weight(backend, site_rows(config, module.site), module.k, format);
      if (module.has_bias) linear.bias.assign(static_cast<size_t>(site_rows(config, module.site)), 0.0f);
    }
  }
  return model;
}

}  // namespace polylora
