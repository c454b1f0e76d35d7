// A tiny model, a Llama unless told otherwise, with random f32 weights and random examples, and one training
// step over it, for tests of what the golden references do not cover.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "tune/train/forward_adapter.h"
#include "tune/train/objective.h"
#include "tune/train/optimizer.h"
#include "tune/train/training_pass.h"

namespace polylora::testing {

inline ModelConfig tiny_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 61;
  config.max_position_embeddings = 128;
  config.tie_word_embeddings = true;
  return config;
}

inline std::vector<float> random_values(int64_t count, uint64_t stream, float scale) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = scale * static_cast<float>(2.0 * random_uniform(17, stream, i) - 1.0);
  return values;
}

inline Model tiny_model(Backend& backend, WeightFormat format = WeightFormat::kF32,
                        const ModelConfig& config = tiny_config()) {
  Model model;
  model.config = config;
  uint64_t stream = 0;
  const auto pack = [&](int64_t rows, int64_t cols, float scale) {
    const std::vector<float> values = random_values(rows * cols, ++stream, scale);
    return backend.pack_weight(rows_of(ConstMat(values.data(), rows, cols)), format);
  };
  const auto gain_of = [&](int64_t width) {
    std::vector<float> gain = random_values(width, ++stream, 0.2f);
    for (float& g : gain) g += 1.0f;
    return gain;
  };
  model.embedding = pack(config.vocab_size, config.hidden_size, 1.0f);
  model.final_norm = gain_of(config.hidden_size);
  if (config.embedding_scale != 1.0f)
    model.embedding_gain.assign(static_cast<size_t>(config.hidden_size), config.embedding_scale);
  model.layers = make_layers(config);
  for (Layer& layer : model.layers) {
    for (const LinearModule& module : linear_modules(config)) {
      std::unique_ptr<Weight>& weight = layer.at(module.site).weight;
      if (!weight) weight = pack(site_rows(config, module.site), module.k, 0.3f);
    }
  }
  for_each_tensor(config, [&](const TensorSpec& spec) {
    if (spec.role != TensorSpec::Role::kNorm) return;
    model.layers[static_cast<size_t>(spec.layer)].norm(static_cast<Norm>(spec.module)) = gain_of(spec.rows);
  });
  return model;
}

/// `length` random tokens, the second half labelled.
inline Example random_example(int length, uint64_t seed) {
  Example example;
  for (int t = 0; t < length; ++t) {
    const double u = random_uniform(seed, 3, static_cast<uint64_t>(t));
    example.input_ids.push_back(static_cast<int32_t>(u * tiny_config().vocab_size));
    example.labels.push_back(t < length / 2 ? kIgnoreIndex : example.input_ids.back());
  }
  return example;
}

inline std::vector<Example> random_examples(int count, uint64_t seed) {
  std::vector<Example> examples;
  for (int i = 0; i < count; ++i)
    examples.push_back(random_example(6 + (i * 7) % 23, seed + static_cast<uint64_t>(i)));
  return examples;
}

/// Random B too, so that every gradient is alive.
inline void randomize(const TrainableAdapter& trained) {
  uint64_t stream = 1000;
  for (const Parameter& parameter : trained.parameters()) {
    const bool pair = parameter.kind == Parameter::Kind::kLoraA || parameter.kind == Parameter::Kind::kLoraB;
    const auto values = random_values(static_cast<int64_t>(parameter.size()), ++stream, pair ? 0.2f : 0.0f);
    for (size_t i = 0; i < values.size() && pair; ++i) trained.value(parameter).data[i] = values[i];
  }
}

/// Everything a run has, put together in memory.
struct TinyTraining {
  TinyTraining(const char* backend_name, int threads, const LoraSettings& settings,
               TrainingPassOptions options, WeightFormat format = WeightFormat::kF32,
               const ModelConfig& config = tiny_config())
      : backend(make_training_backend({.name = backend_name, .threads = threads})),
        model(tiny_model(*backend, format, config)),
        trained(model.config, settings) {
    options.max_rows = 128;
    options.max_positions = 64;
    randomize(trained);
    ForwardAdapter::initialize_full_matrices(model, *backend, trained);
    ForwardAdapter::initialize_magnitudes(model, *backend, trained);
    pass = std::make_unique<TrainingPass>(model, *backend, &trained, options);
    forward = std::make_unique<ForwardAdapter>(model, *backend, trained, options.dtype);
    refresh();
  }

  void refresh() {
    forward->refresh();
    pass->set_full_matrices(forward->embedding(), forward->lm_head());
  }

  void zero() { std::fill(trained.gradients().begin(), trained.gradients().end(), 0.0f); }

  std::unique_ptr<TrainingBackend> backend;
  Model model;
  TrainableAdapter trained;
  std::unique_ptr<TrainingPass> pass;
  std::unique_ptr<ForwardAdapter> forward;
};

}  // namespace polylora::testing
