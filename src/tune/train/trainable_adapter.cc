#include "tune/train/trainable_adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"

namespace polylora {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.";

bool is_target(int layer, const LinearModule& module, const std::vector<std::string>& targets) {
  const std::string path = module_path(layer, module);
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& name) {
    return name == "all" ? is_linear_layer(module) : path == name || path.ends_with("." + name);
  });
}

/// Every name must select something: a misspelt one would silently train less.
void check_targets(const ModelConfig& config, const std::vector<std::string>& targets) {
  const auto modules = linear_modules(config);
  for (const std::string& name : targets) {
    bool used = false;
    for (int layer = 0; layer < config.num_layers && !used; ++layer) {
      for (const LinearModule& module : modules) used = used || is_target(layer, module, {name});
    }
    if (used) continue;
    fail(ErrorCode::kInvalidArgument, "lora_target: '{}' names no linear layer of this model; known: all, {}",
         name, fmt::join(module_names(config), ", "));
  }
}

}  // namespace

float LoraSettings::scale() const {
  const auto r = static_cast<double>(rank);
  return static_cast<float>(alpha / (use_rslora ? std::sqrt(r) : r));
}

TrainableAdapter::TrainableAdapter(const ModelConfig& config, const LoraSettings& settings)
    : config_(config), settings_(settings), sites_(static_cast<size_t>(config.num_layers)) {
  for (auto& layer : sites_) layer.resize(site_count(config));
  check_targets(config, settings.targets);
  add_pairs(config);
  add_full_matrices(config);
  for (HugeBuffer* buffer : {&values_, &gradients_, &first_moments_, &second_moments_})
    *buffer = HugeBuffer(floats_ * sizeof(float));
  make_gradient_views();
}

size_t TrainableAdapter::add_parameter(Parameter::Kind kind, std::string name, int64_t rows, int64_t cols) {
  parameters_.push_back({kind, std::move(name), {rows, cols}, floats_});
  floats_ += (parameters_.back().size() + 15) / 16 * 16;  // each starts on a cache line
  return parameters_.size() - 1;
}

void TrainableAdapter::add_pairs(const ModelConfig& config) {
  const auto modules = linear_modules(config);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (int m = 0; m < static_cast<int>(modules.size()); ++m) {
      const LinearModule& module = modules[static_cast<size_t>(m)];
      if (!is_target(layer, module, settings_.targets)) continue;
      const std::string prefix = fmt::format("{}{}.", kPeftPrefix, module_path(layer, module));
      TrainablePair pair{.layer = layer, .module = m};
      pair.a = add_parameter(Parameter::Kind::kLoraA, prefix + "lora_A.weight", settings_.rank, module.k);
      pair.b =
          add_parameter(Parameter::Kind::kLoraB, prefix + "lora_B.weight", module.n_count, settings_.rank);
      if (settings_.use_dora)
        pair.magnitude =
            add_parameter(Parameter::Kind::kMagnitude, prefix + "lora_magnitude_vector", module.n_count, 1);
      pairs_.push_back(pair);
    }
  }
}

void TrainableAdapter::add_full_matrices(const ModelConfig& config) {
  for (const std::string& name : settings_.full_matrices) {
    if (name != "embed_tokens" && name != "lm_head") {
      fail(ErrorCode::kUnsupported,
           "additional_target: '{}' cannot be trained in full here; embed_tokens and lm_head can", name);
    }
    const std::string module = name == "lm_head" ? "lm_head" : "model.embed_tokens";
    add_parameter(Parameter::Kind::kFullMatrix, fmt::format("{}{}.weight", kPeftPrefix, module),
                  config.vocab_size, config.hidden_size);
  }
}

void TrainableAdapter::make_gradient_views() {
  const auto modules = linear_modules(config_);
  for (const TrainablePair& pair : pairs_) {
    const LinearModule& module = modules[static_cast<size_t>(pair.module)];
    const Parameter &a = parameters_[pair.a], &b = parameters_[pair.b];
    auto& site = sites_[static_cast<size_t>(pair.layer)][static_cast<size_t>(module.site)];
    site.push_back(
        {module.n_begin, module.n_count, settings_.scale(), value(a), value(b), gradient(a), gradient(b)});
  }
}

void TrainableAdapter::initialize(uint64_t seed) {
  for (const Parameter& parameter : parameters_) {
    if (parameter.kind != Parameter::Kind::kLoraA) continue;
    const uint64_t stream = hash_bytes(std::as_bytes(std::span(parameter.name)));
    const double bound = 1.0 / std::sqrt(static_cast<double>(parameter.shape[1]));
    const Mat a = value(parameter);
    for (size_t i = 0; i < parameter.size(); ++i)
      a.data[i] = static_cast<float>(bound * (2.0 * random_uniform(seed, stream, i) - 1.0));
  }
}

std::vector<std::string> TrainableAdapter::target_names() const {
  const auto modules = linear_modules(config_);
  std::vector<std::string> names;
  for (const TrainablePair& pair : pairs_) names.emplace_back(modules[static_cast<size_t>(pair.module)].name);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

const Parameter* TrainableAdapter::full_matrix(std::string_view module) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.kind == Parameter::Kind::kFullMatrix &&
        parameter.name.ends_with(fmt::format("{}.weight", module)))
      return &parameter;
  }
  return nullptr;
}

int TrainableAdapter::first_layer() const {
  return pairs_.empty() ? config_.num_layers : pairs_.front().layer;
}

std::span<const LoraGradient> TrainableAdapter::gradients_at(int layer, Site site) const {
  return sites_[static_cast<size_t>(layer)][static_cast<size_t>(site)];
}

std::unique_ptr<Adapter> TrainableAdapter::pack(Backend& backend, DType dtype) const {
  auto adapter = std::make_unique<Adapter>(config_);
  const auto pack_site = [&](int layer, Site site) {
    const auto pairs = gradients_at(layer, site);
    if (pairs.empty()) return;
    LoraSource source{.k = pairs.front().a.cols, .n = site_rows(config_, site), .pairs = {}};
    for (const LoraGradient& pair : pairs) {
      source.pairs.push_back(
          {pair.n_begin, pair.n_count, pair.a.rows, pair.scale, pair.a.data, pair.b.data, DType::kF32});
    }
    adapter->set(layer, site, backend.pack_lora(source, dtype));
  };
  // Packing is free of the backend's thread; two threads halve what is otherwise a serial share of every
  // update.
  std::atomic<int> next_layer = 0;
  const std::vector<Site> all_sites = sites(config_);
  const auto pack_layers = [&] {
    for (int layer = next_layer++; layer < config_.num_layers; layer = next_layer++) {
      for (const Site site : all_sites) pack_site(layer, site);
    }
  };
  const std::jthread helper(pack_layers);
  pack_layers();
  return adapter;
}

}  // namespace polylora
