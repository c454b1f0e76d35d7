// What a user calls a model or an adapter, as a path: a path stays what it is, anything else is downloaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/progress.h"

namespace polylora {

struct SourceOptions {
  /// What requests may have downloaded: "org/" or "org/name" of the hub, "https://host/folder/",
  /// "s3://bucket/prefix". Each is a prefix that ends where a part of the name ends.
  std::vector<std::string> allowed_adapter_sources = {};
  uint64_t max_adapter_download = uint64_t{2} << 30;  // bytes of an adapter from a URL
  ProgressFn progress = {};
  std::function<void(std::string_view)> say = {};  // lines for the user
};

/// Reads the environment (HF_*, AWS_*) at each call. Thread-safe as far as the two functions are.
class ModelSources {
 public:
  explicit ModelSources(SourceOptions options) : options_(std::move(options)) {}

  /// A path that exists, or else a hub id ("org/name[@revision][:file.gguf]"); any other text is returned as
  /// it is, for whoever opens it to complain about. `revision` is that of an id without one; empty: main.
  /// Throws what Hub does.
  std::filesystem::path find_model(const std::string& text, const std::string& revision = {}) const;

  /// The same for an adapter, which may also be an https:// or s3:// folder.
  std::filesystem::path find_adapter(const std::string& text) const;

  /// For text that comes from a client: only what the allow-list admits is downloaded. Throws
  /// kInvalidArgument for other URLs; other hub ids are taken for paths.
  std::filesystem::path find_requested_adapter(const std::string& text) const;

 private:
  bool is_allowed(std::string_view text) const;

  SourceOptions options_;
};

}  // namespace polylora
