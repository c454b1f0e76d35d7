// Models and adapters from the Hugging Face hub, through the cache that its libraries share.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "hub/hub_settings.h"

namespace polylora {

/// Downloads what a folder of that kind is made of and is not in the cache yet; every content is checked
/// against the checksum that the hub names. Safetensors and GGUF only, never pickles. With settings.offline,
/// or when the hub cannot be reached, the cache's last state answers.
class Hub {
 public:
  /// `say` takes lines for the user; both may be empty. Thread-safe as far as they are.
  Hub(HubSettings settings, ProgressFn progress, std::function<void(std::string_view)> say);

  /// A model folder in the cache, or the .gguf file that id.file names. Throws kNotFound, kInvalidArgument (a
  /// choice is needed), kUnsupported (only pickled weights), kUnavailable, kDataCorrupt (a wrong checksum).
  std::filesystem::path fetch_model(const HubId& id) const;
  std::filesystem::path fetch_adapter(const HubId& id) const;

 private:
  struct Snapshot;
  struct Fetched {
    std::filesystem::path folder;
    std::vector<std::string> files;  // in it, as chosen
  };
  using Choose = std::function<std::vector<std::string>(const HubId&, const std::vector<std::string>&)>;

  Snapshot find_snapshot(const HubId& id) const;
  Snapshot ask_hub(const HubId& id) const;
  Snapshot look_in_cache(const HubId& id, const std::string& why) const;
  void fetch_file(const HubId& id, const Snapshot& snapshot, const std::string& file) const;
  Fetched fetch(const HubId& id, const Choose& choose) const;
  std::vector<std::string> secret_headers() const;

  HubSettings settings_;
  ProgressFn progress_;
  std::function<void(std::string_view)> say_;
};

}  // namespace polylora
