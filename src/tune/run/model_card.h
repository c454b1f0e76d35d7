// README.md of an adapter: the model card that the Hugging Face hub shows
// (https://huggingface.co/docs/hub/model-cards).
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tune/config/train_config.h"

namespace polylora {

/// The card's text. `log_history` is RunLog's.
std::string model_card_text(const TrainConfig& config, const nlohmann::json& log_history);

/// README.md in `folder`, atomically.
void write_model_card(const std::filesystem::path& folder, const TrainConfig& config,
                      const nlohmann::json& log_history);

}  // namespace polylora
