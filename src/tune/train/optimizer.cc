#include "tune/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace polylora {

void Optimizer::zero_gradients() {
  const std::span<float> gradients = trained_.gradients();
  std::fill(gradients.begin(), gradients.end(), 0.0f);
}

double Optimizer::learning_rate_of(const Parameter& parameter, double learning_rate) const {
  if (!settings_.loraplus_lr_ratio) return learning_rate;
  if (parameter.kind == Parameter::Kind::kLoraB) return learning_rate * *settings_.loraplus_lr_ratio;
  const bool embeds = parameter.kind == Parameter::Kind::kFullMatrix &&
                      parameter.name.find("embed_tokens") != std::string::npos;
  return embeds ? settings_.loraplus_lr_embedding : learning_rate;
}

// torch's clip_grad_norm_: everything is multiplied with max_norm / (norm + 1e-6) where that is below 1.
double Optimizer::update(int64_t step, double learning_rate) {
  const double norm = std::sqrt(backend_.sum_squares(trained_.gradients()));
  double scale = 1.0;
  if (settings_.max_grad_norm > 0.0) scale = std::min(1.0, settings_.max_grad_norm / (norm + 1e-6));
  AdamwParams params{.beta1 = static_cast<float>(settings_.beta1),
                     .beta2 = static_cast<float>(settings_.beta2),
                     .epsilon = static_cast<float>(settings_.epsilon),
                     .weight_decay = static_cast<float>(settings_.weight_decay),
                     .step = step,
                     .gradient_scale = static_cast<float>(scale)};
  for (const Parameter& parameter : trained_.parameters()) {
    params.learning_rate = static_cast<float>(learning_rate_of(parameter, learning_rate));
    const auto share = [&](std::span<float> all) { return all.subspan(parameter.offset, parameter.size()); };
    backend_.adamw(share(trained_.values()), share(trained_.first_moments()),
                   share(trained_.second_moments()), share(trained_.gradients()), params);
  }
  return norm;
}

}  // namespace polylora
