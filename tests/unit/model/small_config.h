// Small shapes that differ wherever two widths could be mixed up.
#pragma once

#include "model/config.h"

namespace polylora {

inline ModelConfig small_config() {
  ModelConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 160;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 24;  // not hidden / heads
  config.vocab_size = 320;
  return config;
}

inline ModelConfig small_mixture() {
  ModelConfig config = small_config();
  config.experts = {.count = 5, .per_token = 2, .normalises = true, .names = {.block = "mlp"}};
  return config;
}

}  // namespace polylora
