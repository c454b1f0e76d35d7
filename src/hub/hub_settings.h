// How this machine uses the Hugging Face hub: the environment variables of huggingface_hub.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace polylora {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; no slash at the end
  std::filesystem::path cache;  // HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME or ~/.cache/huggingface/hub
  std::string token;     // HF_TOKEN, HF_HUB_TOKEN, or the file that `hf auth login` writes; may be empty
  bool offline = false;  // HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE: only what the cache holds
};

/// Throws kInvalidArgument for values that cannot be meant.
HubSettings hub_settings_from_environment();

/// A repository, at a revision; of GGUF repositories one file.
struct HubId {
  std::string repo;               // "org/name"
  std::string revision = "main";  // branch, tag or commit
  std::string file{};             // "model.Q4_K_M.gguf", or only "Q4_K_M"; empty: a model or adapter folder
};

/// "org/name[@revision][:file]"; nothing for any other text. Asks neither the disk nor the hub.
/// `revision` is that of an id that names none; empty: main. Throws kInvalidArgument when it cannot be one.
std::optional<HubId> parse_hub_id(std::string_view text, const std::string& revision = {});

}  // namespace polylora
