#include "hub/model_sources.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "base/error.h"
#include "hub/hub.h"
#include "hub/remote_adapter.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Where adapters from URLs are kept.
fs::path adapter_cache() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0')
    return fs::path(cache) / "polylora" / "adapters";
  const char* home = std::getenv("HOME");
  return fs::path(home == nullptr ? "." : home) / ".cache" / "polylora" / "adapters";
}

Hub make_hub(const SourceOptions& options) {
  return Hub(hub_settings_from_environment(), options.progress, options.say);
}

}  // namespace

fs::path ModelSources::find_model(const std::string& text, const std::string& revision) const {
  if (exists(text)) return text;
  const std::optional<HubId> id = parse_hub_id(text, revision);
  if (!id) return text;
  return make_hub(options_).fetch_model(*id);
}

fs::path ModelSources::find_adapter(const std::string& text) const {
  if (exists(text)) return text;
  if (is_url(text))
    return fetch_remote_adapter(text, adapter_cache(), options_.max_adapter_download, options_.progress);
  if (const std::optional<HubId> id = parse_hub_id(text)) return make_hub(options_).fetch_adapter(*id);
  return text;
}

fs::path ModelSources::find_requested_adapter(const std::string& text) const {
  if (exists(text)) return text;
  if (is_allowed(text)) return find_adapter(text);
  if (is_url(text)) {
    fail(ErrorCode::kInvalidArgument,
         "'{}' is not among the sources that adapters may be loaded from (--allowed-adapter-sources)", text);
  }
  return text;
}

bool ModelSources::is_allowed(std::string_view text) const {
  const auto& allowed = options_.allowed_adapter_sources;
  return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& prefix) {
    if (!text.starts_with(prefix)) return false;
    return prefix.ends_with('/') || text.size() == prefix.size() || text[prefix.size()] == '/' ||
           text[prefix.size()] == '@';
  });
}

}  // namespace polylora
