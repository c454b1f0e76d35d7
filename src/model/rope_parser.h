// Rotary embedding's keys of config.json.
#pragma once

#include <string_view>

#include "model/architectures.h"
#include "model/config_reader.h"

namespace polylora {

/// Reads rope_theta, rope_scaling and rope_parameters into `config`, whose head_dim and
/// max_position_embeddings are known.
void parse_rope(const ConfigReader& reader, const Architecture& row, std::string_view where,
                ModelConfig& config);

}  // namespace polylora
