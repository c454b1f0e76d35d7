#include "tune/train/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace polylora {
namespace {

constexpr size_t kLeastActivations = size_t{312} << 20;
/// Panels made on the fly, narrowed activations, the allocator's slabs, the program itself.
constexpr size_t kScratch = size_t{64} << 20;

double bytes_per_weight(WeightPolicy policy, bool is_embedding) {
  switch (policy) {
    case WeightPolicy::kF32:
      return 4.0;
    case WeightPolicy::kQ8:
      return 1.0625;
    case WeightPolicy::kQ4:
      return is_embedding ? 1.0625 : 0.625;
    case WeightPolicy::kBf16:
    case WeightPolicy::kNative:
      break;
  }
  return 2.0;
}

size_t weight_bytes(const ModelConfig& config, WeightPolicy policy) {
  double bytes = 0.0;
  for_each_tensor(config, [&](const TensorSpec& spec) {
    if (spec.cols == 0) return;
    const bool embeds = spec.role == TensorSpec::Role::kEmbedding || spec.role == TensorSpec::Role::kLmHead;
    bytes += static_cast<double>(spec.rows * spec.cols) * bytes_per_weight(policy, embeds);
  });
  return static_cast<size_t>(bytes);
}

std::string megabytes(size_t bytes) {
  return fmt::format("{:.0f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace

std::string MemoryPlan::text() const {
  return fmt::format("weights {}, adapter and optimizer {}, activations {}, working memory {}",
                     megabytes(weights), megabytes(adapter), megabytes(activations), megabytes(working));
}

MemoryPlan plan_memory(const TrainConfig& config, const ModelConfig& model, WeightPolicy policy,
                       size_t adapter_floats, const TrainingPassOptions& options, size_t available) {
  const TrainingPass::MemoryNeed need = TrainingPass::memory_need(model, options);
  MemoryPlan plan{.weights = weight_bytes(model, policy),
                  .adapter = adapter_floats * (4 * sizeof(float) + 2),
                  .working = need.fixed + need.kv + kScratch,
                  .activations = 0,
                  .kept_layers = model.num_layers};
  const size_t all = need.per_kept_layer * static_cast<size_t>(model.num_layers);
  plan.activations = all;
  if (!config.disable_gradient_checkpointing) {
    plan.activations = 0;
    const size_t left = available > plan.total() ? available - plan.total() : 0;
    const size_t budget = std::min(std::max(kLeastActivations, plan.weights / 2), left);
    plan.kept_layers = static_cast<int>(std::min<size_t>(budget / need.per_kept_layer, plan.kept_layers));
    plan.activations = need.per_kept_layer * static_cast<size_t>(plan.kept_layers);
  }
  if (plan.total() <= available) return plan;
  std::string advice = fmt::format("lower cutoff_len (now {}; the longest example decides: {} tokens)",
                                   config.cutoff_len, options.max_positions);
  if (config.disable_gradient_checkpointing)
    advice = "leave out disable_gradient_checkpointing, or " + advice;
  if (config.quantization_bit == 0) advice += ", or set quantization_bit: 8 or 4";
  fail(ErrorCode::kResourceExhausted, "training needs about {} ({}), but {} are free: {}",
       megabytes(plan.total()), plan.text(), megabytes(available), advice);
}

}  // namespace polylora
