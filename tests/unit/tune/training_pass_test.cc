// Gradients against finite differences where no golden reference exists (DoRA, matrices trained in full,
// dropout, noise, preferences), and what must not change a result: threads, micro-batches, recomputation.
#include "tune/train/training_pass.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "model/dora.h"
#include "tiny_training.h"
#include "tune/train/base_matrix.h"
#include "tune/train/pissa.h"

namespace polylora {
namespace {

using testing::random_example;
using testing::random_examples;
using testing::TinyTraining;

constexpr size_t kKeepAll = size_t{1} << 30;
constexpr uint64_t kKey = 99;

TrainingPassOptions in_f32() {
  TrainingPassOptions options;
  options.dtype = DType::kF32;
  options.activation_bytes = kKeepAll;
  return options;
}

std::vector<size_t> all_of(const Objective& objective) {
  std::vector<size_t> indices(objective.size());
  std::iota(indices.begin(), indices.end(), size_t{0});
  return indices;
}

/// A few elements of every parameter: (f(p + h) - f(p - h)) / 2h against the gradient, relative to the
/// parameter's largest gradient.
void expect_finite_differences(TinyTraining& t, const std::function<double()>& loss) {
  const std::vector<float> gradients(t.trained.gradients().begin(), t.trained.gradients().end());
  for (const Parameter& parameter : t.trained.parameters()) {
    const float* gradient = gradients.data() + parameter.offset;
    float largest = 0.0f;
    for (size_t i = 0; i < parameter.size(); ++i) largest = std::max(largest, std::fabs(gradient[i]));
    EXPECT_GT(largest, 0.0f) << parameter.name;
    for (size_t sample = 0; sample < 4; ++sample) {
      const size_t i = sample * 7919 % parameter.size();
      float& value = t.trained.value(parameter).data[i];
      const auto at = [&](float moved) {
        const float original = std::exchange(value, value + moved);
        const double result = loss();
        value = original;
        return result;
      };
      const auto slope = [&](float from, float to) { return (at(to) - at(from)) / (double{to} - from); };
      const double tolerance = 2e-2 * largest + 2e-5;
      double expected = slope(-4e-3f, 4e-3f);
      // Where a router changes its mind within the step, the loss jumps; but not on both sides at once.
      if (t.model.config.has_experts() && std::fabs(expected - gradient[i]) > tolerance) {
        const double left = slope(-5e-4f, 0.0f), right = slope(0.0f, 5e-4f);
        expected = std::fabs(left - gradient[i]) < std::fabs(right - gradient[i]) ? left : right;
      }
      EXPECT_NEAR(expected, gradient[i], tolerance) << parameter.name << " at " << i;
    }
  }
}

LoraSettings rank3() {
  LoraSettings settings;
  settings.rank = 3;
  settings.alpha = 6;
  return settings;
}

double loss_of(TinyTraining& t, Objective& objective) {
  t.refresh();
  return objective.accumulate(*t.pass, t.forward->adapter(), all_of(objective), kKey).loss;
}

void check_objective(TinyTraining& t, Objective& objective) {
  t.zero();
  loss_of(t, objective);
  expect_finite_differences(t, [&] { return loss_of(t, objective); });
}

TEST(TrainingPassGradients, MatricesTrainedInFull) {
  LoraSettings settings = rank3();
  settings.full_matrices = {"embed_tokens", "lm_head"};
  TinyTraining t("ref", 1, settings, in_f32());
  const auto examples = random_examples(3, 5);
  check_objective(t, *make_next_token_objective(examples, 128));
}

TEST(TrainingPassGradients, DropoutAndNoise) {
  TrainingPassOptions options = in_f32();
  options.dropout = 0.3;
  options.neftune_noise_alpha = 5.0;
  TinyTraining t("ref", 1, rank3(), options);
  const auto examples = random_examples(3, 6);
  check_objective(t, *make_next_token_objective(examples, 128));
}

TEST(TrainingPassGradients, Preferences) {
  TinyTraining t("ref", 1, rank3(), in_f32());
  std::vector<PreferencePair> pairs;
  for (uint64_t i = 0; i < 3; ++i) pairs.push_back({random_example(12, 20 + i), random_example(15, 40 + i)});
  check_objective(t,
                  *make_preference_objective(pairs, 128, {.beta = 0.5, .ftx = 0.3, .label_smoothing = 0.1}));
}

TEST(TrainingPassGradients, RsLoraOnSomeModules) {
  LoraSettings settings = rank3();
  settings.use_rslora = true;
  settings.targets = {"v_proj", "model.layers.1.mlp.down_proj"};
  TinyTraining t("ref", 1, settings, in_f32());
  EXPECT_EQ(t.trained.pairs().size(), 3u);
  const auto examples = random_examples(3, 7);
  check_objective(t, *make_next_token_objective(examples, 128));
}

/// tiny_config with what sets an architecture apart, as its config.json says it.
ModelConfig tiny_architecture(const std::string& model_type) {
  nlohmann::json config = {{"model_type", model_type},
                           {"hidden_size", 32},
                           {"intermediate_size", 64},
                           {"num_hidden_layers", 3},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"head_dim", 16},
                           {"vocab_size", 61},
                           {"max_position_embeddings", 64},
                           {"sliding_window", 5},
                           {"use_sliding_window", true},
                           {"max_window_layers", 1},
                           {"sliding_window_pattern", 2},
                           {"query_pre_attn_scalar", 24},
                           {"num_local_experts", 4},
                           {"num_experts", 5},
                           {"num_experts_per_tok", 2},
                           {"moe_intermediate_size", 48},
                           {"tie_word_embeddings", true},
                           {"attn_logit_softcapping", 5.0},
                           {"final_logit_softcapping", 8.0}};
  if (model_type == "phi3") {
    config["original_max_position_embeddings"] = 32;
    config["rope_scaling"] = {{"type", "longrope"},
                              {"short_factor", {1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5}},
                              {"long_factor", {1.0, 1.4, 2.0, 3.0, 4.5, 6.0, 7.0, 8.0}}};
  }
  return parse_model_config(config, "config.json");
}

/// Finite differences at the start, then 20 steps that keep agreeing with them, and a loss that falls.
TEST(TrainingPassGradients, EveryArchitecture) {
  for (const std::string_view model_type : known_model_types()) {
    SCOPED_TRACE(model_type);
    LoraSettings settings = rank3();
    settings.full_matrices = {"embed_tokens"};
    TinyTraining t("ref", 1, settings, in_f32(), WeightFormat::kF32,
                   tiny_architecture(std::string(model_type)));
    const auto examples = random_examples(2, 5);
    const auto objective = make_next_token_objective(examples, 128);
    check_objective(t, *objective);
    const double before = loss_of(t, *objective);
    Optimizer optimizer(*t.backend, t.trained, OptimizerSettings{});
    for (int step = 1; step <= 20; ++step) {
      optimizer.zero_gradients();
      loss_of(t, *objective);
      optimizer.update(step, 1e-3);
    }
    check_objective(t, *objective);
    EXPECT_LT(loss_of(t, *objective), before);
  }
}

/// Pairs on experts and routers, as transformers 4 made them, in a batch of which each expert sees some rows.
TEST(TrainingPassGradients, ExpertsAndTheirRouter) {
  for (const bool normalises : {true, false}) {
    for (const bool use_dora : {false, true}) {
      SCOPED_TRACE(normalises);
      ModelConfig config = tiny_architecture("qwen3_moe");
      config.experts.normalises = normalises;
      LoraSettings settings = rank3();
      settings.use_dora = use_dora;
      settings.targets = {"gate", "gate_proj", "up_proj", "down_proj"};
      TinyTraining t("cpu", 1, settings, in_f32(), WeightFormat::kF32, config);
      EXPECT_EQ(t.trained.pairs().size(), 3u * (1 + 5 * 3));
      const auto examples = random_examples(5, 5);
      const auto objective = make_next_token_objective(examples, 128);
      if (use_dora) {
        t.zero();
        EXPECT_GT(loss_of(t, *objective), 0.0);
      } else {
        check_objective(t, *objective);
      }
    }
  }
}

/// Layers that are computed again leave the same bits as layers that were kept.
TEST(TrainingPass, RecomputationIsExactForEveryArchitecture) {
  for (const std::string_view model_type : known_model_types()) {
    SCOPED_TRACE(model_type);
    const auto gradients = [&](size_t activation_bytes) {
      TrainingPassOptions options = in_f32();
      options.activation_bytes = activation_bytes;
      TinyTraining t("cpu", 2, rank3(), options, WeightFormat::kF32,
                     tiny_architecture(std::string(model_type)));
      const auto examples = random_examples(3, 5);
      t.zero();
      loss_of(t, *make_next_token_objective(examples, 128));
      return std::vector<float>(t.trained.gradients().begin(), t.trained.gradients().end());
    };
    EXPECT_EQ(gradients(kKeepAll), gradients(0));
  }
}

/// DoRA's norm is a constant to its gradient: the gains that the forward uses must be held while A and B
/// move.
TEST(TrainingPassGradients, DoraWithTheNormHeld) {
  LoraSettings settings = rank3();
  settings.use_dora = true;
  TinyTraining t("ref", 1, settings, in_f32());
  for (Layer& layer : t.model.layers)
    layer.at(Site::kQkv).bias = testing::random_values(t.model.config.qkv_size(), 77, 0.5f);
  const auto examples = random_examples(3, 8);
  const auto objective = make_next_token_objective(examples, 128);
  t.zero();
  loss_of(t, *objective);

  std::vector<std::vector<float>> norms;  // by layer and site: magnitude / gain
  const std::vector<float> start(t.trained.values().begin(), t.trained.values().end());
  const auto magnitudes = [&](int layer, Site site, std::span<const float> values) {
    const auto modules = linear_modules(t.model.config);
    std::vector<float> result(static_cast<size_t>(site_rows(t.model.config, site)), 1.0f);
    for (const TrainablePair& pair : t.trained.pairs()) {
      const LinearModule& module = modules[static_cast<size_t>(pair.module)];
      if (pair.layer != layer || module.site != site) continue;
      const Parameter& m = t.trained.parameters()[pair.magnitude];
      std::copy_n(values.data() + m.offset, m.size(), result.data() + module.n_begin);
    }
    return result;
  };
  const std::vector<Site> all_sites = sites(t.model.config);
  for (int layer = 0; layer < t.model.config.num_layers; ++layer) {
    for (const Site site : all_sites) {
      std::vector<float> norm = magnitudes(layer, site, start);
      const auto gain = t.forward->adapter().gain(layer, site);
      for (size_t n = 0; n < norm.size(); ++n) norm[n] /= gain[n];
      norms.push_back(norm);
    }
  }
  expect_finite_differences(t, [&] {
    const auto adapter = t.trained.pack(*t.backend, DType::kF32);
    size_t next = 0;
    for (int layer = 0; layer < t.model.config.num_layers; ++layer) {
      for (const Site site : all_sites) {
        std::vector<float> gain = magnitudes(layer, site, t.trained.values());
        const std::vector<float>& norm = norms[next++];
        for (size_t n = 0; n < gain.size(); ++n) gain[n] /= norm[n];
        const auto& bias = t.model.layers[static_cast<size_t>(layer)].at(site).bias;
        adapter->set_columns(layer, site, gain, bias_beside_gain(bias, gain));
      }
    }
    return objective->accumulate(*t.pass, *adapter, all_of(*objective), kKey).loss;
  });
}

TEST(TrainingPass, DoraStartsAsTheBase) {
  LoraSettings settings = rank3();
  settings.use_dora = true;
  TinyTraining t("cpu", 2, settings, in_f32());
  for (const Parameter& parameter : t.trained.parameters()) {
    if (parameter.kind == Parameter::Kind::kLoraB)
      std::fill_n(t.trained.value(parameter).data, parameter.size(), 0.0f);
  }
  t.refresh();
  const auto examples = random_examples(4, 9);
  const auto objective = make_next_token_objective(examples, 128);
  const double with = objective->evaluate(*t.pass, t.forward->adapter(), {}).loss;
  const double without = objective->evaluate(*t.pass, Adapter(t.model.config), {}).loss;
  EXPECT_NEAR(with, without, 1e-5);
}

TEST(TrainingPass, PissaMovesThePrincipalPartIntoTheAdapter) {
  LoraSettings settings = rank3();
  TinyTraining t("cpu", 2, settings, in_f32());
  const auto examples = random_examples(4, 10);
  const auto objective = make_next_token_objective(examples, 128);
  const Adapter none(t.model.config);
  const double before = objective->evaluate(*t.pass, none, {}).loss;
  std::vector<float> original(32 * 64);
  read_rows(*t.backend, *t.model.layers[0].at(Site::kQkv).weight, 0, Mat(original.data(), 64, 32));
  initialize_pissa(t.model, *t.backend, t.trained, -1, 1);
  t.refresh();
  EXPECT_NEAR(objective->evaluate(*t.pass, t.forward->adapter(), {}).loss, before, 1e-4)
      << "residual + adapter is the model it was";
  EXPECT_GT(std::fabs(objective->evaluate(*t.pass, none, {}).loss - before), 1e-3)
      << "the residual alone is not";

  // q_proj: what is left is orthogonal to the three directions taken out, so nothing of rank 3 fits better.
  std::vector<float> rest(32 * 32);
  read_rows(*t.backend, *t.model.layers[0].at(Site::kQkv).weight, 0, Mat(rest.data(), 32, 32));
  const Mat a = t.trained.value(t.trained.parameters()[t.trained.pairs()[0].a]);
  for (int64_t r = 0; r < a.rows; ++r) {
    double size = 0.0, along = 0.0;
    for (int64_t k = 0; k < 32; ++k) size += double{a.row(r)[k]} * double{a.row(r)[k]};
    for (size_t n = 0; n < 32; ++n) {
      double product = 0.0;
      for (size_t k = 0; k < 32; ++k) product += double{rest[n * 32 + k]} * double{a.row(r)[k]};
      along += product * product;
    }
    EXPECT_LT(std::sqrt(along / size), 2e-3);
  }
}

/// Two updates of a run, its parameters afterwards.
std::vector<float> train_two_steps(const char* backend, int threads, size_t activation_bytes, int micro_rows,
                                   WeightFormat format, DType dtype) {
  TrainingPassOptions options;
  options.dtype = dtype;
  options.activation_bytes = activation_bytes;
  options.dropout = 0.2;
  TinyTraining t(backend, threads, rank3(), options, format);
  const auto examples = random_examples(6, 11);
  const auto objective = make_next_token_objective(examples, micro_rows);
  OptimizerSettings settings;
  Optimizer optimizer(*t.backend, t.trained, settings);
  for (int64_t step = 1; step <= 2; ++step) {
    optimizer.zero_gradients();
    objective->accumulate(*t.pass, t.forward->adapter(), all_of(*objective), static_cast<uint64_t>(step));
    optimizer.update(step, 1e-2);
    t.refresh();
  }
  return {t.trained.values().begin(), t.trained.values().end()};
}

TEST(TrainingPass, ThreadsAndRecomputationChangeNoBit) {
  for (const auto& [format, dtype] :
       {std::pair{WeightFormat::kF32, DType::kF32}, std::pair{WeightFormat::kBf16, DType::kBf16}}) {
    const auto expected = train_two_steps("cpu", 1, kKeepAll, 128, format, dtype);
    for (const int threads : {1, 2, 3}) {
      for (const size_t bytes : {size_t{0}, size_t{200000}, kKeepAll}) {
        const auto actual = train_two_steps("cpu", threads, bytes, 128, format, dtype);
        EXPECT_EQ(0, std::memcmp(expected.data(), actual.data(), expected.size() * sizeof(float)))
            << threads << " threads, " << bytes << " bytes of activations";
      }
    }
  }
}

TEST(TrainingPass, MicroBatchesChangeTheOrderOfSumsOnly) {
  const auto expected = train_two_steps("cpu", 2, kKeepAll, 128, WeightFormat::kF32, DType::kF32);
  const auto actual = train_two_steps("cpu", 2, kKeepAll, 16, WeightFormat::kF32, DType::kF32);
  double worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i)
    worst = std::max(worst, std::fabs(double{expected[i]} - double{actual[i]}));
  EXPECT_LT(worst, 2e-4);  // of steps of 1e-2: Adam magnifies the rounding of tiny gradients
}

TEST(TrainingPass, CpuTrainsAsRef) {
  const auto expected = train_two_steps("ref", 1, kKeepAll, 128, WeightFormat::kF32, DType::kF32);
  const auto actual = train_two_steps("cpu", 2, kKeepAll, 128, WeightFormat::kF32, DType::kF32);
  double worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i)
    worst = std::max(worst, std::fabs(double{expected[i]} - double{actual[i]}));
  EXPECT_LT(worst, 2e-4);
}

TEST(TrainingPass, PackedSegmentsDoNotSeeEachOther) {
  TinyTraining t("cpu", 2, rank3(), in_f32());
  const Example a = random_example(13, 50), b = random_example(9, 51);
  Example packed = a;
  packed.input_ids.insert(packed.input_ids.end(), b.input_ids.begin(), b.input_ids.end());
  packed.labels.insert(packed.labels.end(), b.labels.begin(), b.labels.end());
  for (const Example& part : {a, b}) {
    for (size_t p = 0; p < part.input_ids.size(); ++p) packed.positions.push_back(static_cast<int32_t>(p));
  }
  packed.segments = {0, 13};
  const std::vector<Example> together = {packed}, apart = {a, b};
  const auto sum = [&](const std::vector<Example>& examples) {
    return make_next_token_objective(examples, 128)
        ->evaluate(*t.pass, t.forward->adapter(), {.batch_size = 2})
        .loss;
  };
  EXPECT_NEAR(sum(together), sum(apart), 1e-6);
  Example open = packed;
  open.segments.clear();
  const std::vector<Example> mixed = {open};
  EXPECT_GT(std::fabs(sum(mixed) - sum(apart)), 1e-4) << "without segments the second sees the first";
}

TEST(TrainingPass, LearnsOnEveryKindOfBase) {
  for (const WeightFormat format :
       {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kQ8, WeightFormat::kQ4}) {
    TrainingPassOptions options;
    options.activation_bytes = kKeepAll;
    options.dtype = format == WeightFormat::kF32 ? DType::kF32 : DType::kBf16;
    TinyTraining t("cpu", 2, rank3(), options, format);
    const auto examples = random_examples(6, 12);
    const auto objective = make_next_token_objective(examples, 128);
    Optimizer optimizer(*t.backend, t.trained, OptimizerSettings());
    const double first = loss_of(t, *objective);
    double last = first;
    for (int64_t step = 1; step <= 30; ++step) {
      optimizer.zero_gradients();
      last = loss_of(t, *objective);
      optimizer.update(step, 1e-2);
    }
    EXPECT_LT(last, 0.7 * first) << weight_format_name(format);
  }
}

}  // namespace
}  // namespace polylora
