#include "hub/hub_settings.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/error.h"
#include "base/file.h"
#include "hub/web.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameBytes = 96;  // the hub's own limit
constexpr size_t kMaxTokenBytes = size_t{16} << 10;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_on(const char* name) {
  std::string value = environment(name);
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path hugging_face_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "huggingface";
  return fs::path(environment("HOME")) / ".cache" / "huggingface";
}

std::string without_blanks(std::string text) {
  std::erase_if(text, [](unsigned char c) { return std::isspace(c); });
  return text;
}

std::string find_token() {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_TOKEN"}) {
    if (std::string token = without_blanks(environment(name)); !token.empty()) return token;
  }
  const std::string named = environment("HF_TOKEN_PATH");
  const fs::path file = named.empty() ? hugging_face_home() / "token" : fs::path(named);
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return {};
  return without_blanks(read_text_file(file, kMaxTokenBytes));
}

bool is_name(std::string_view text) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  };
  return !text.empty() && text.size() <= kMaxNameBytes && text.front() != '.' && text.front() != '-' &&
         text.back() != '.' && text.find("..") == std::string_view::npos &&
         text.find("--") == std::string_view::npos && std::all_of(text.begin(), text.end(), is_plain);
}

/// Branches may have slashes ("refs/pr/1"); the parts become folders of the cache.
bool is_revision(std::string_view text) {
  while (true) {
    const size_t slash = text.find('/');
    const std::string_view part = text.substr(0, slash);
    const bool plain = std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '+';
    });
    if (part.empty() || part.size() > kMaxNameBytes || part.front() == '.' || !plain) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

/// Cuts what follows `mark` off.
std::string cut_after(std::string_view& text, char mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  std::string rest(text.substr(at + 1));
  text = text.substr(0, at);
  return rest;
}

}  // namespace

HubSettings hub_settings_from_environment() {
  HubSettings settings;
  if (const std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty())
    settings.endpoint = endpoint;
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  origin_of(settings.endpoint);  // throws for what is no URL
  settings.cache = hugging_face_home() / "hub";
  for (const char* name : {"HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"}) {
    if (const std::string cache = environment(name); !cache.empty()) settings.cache = cache;
  }
  settings.token = find_token();
  settings.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
  return settings;
}

std::optional<HubId> parse_hub_id(std::string_view text, const std::string& revision) {
  HubId id;
  if (!revision.empty()) id.revision = revision;
  if (!is_revision(id.revision))
    fail(ErrorCode::kInvalidArgument, "'{}' cannot be a branch, tag or commit", revision);
  const bool has_file = text.find(':') != std::string_view::npos;
  id.file = cut_after(text, ':');
  const bool has_revision = text.find('@') != std::string_view::npos;
  if (std::string named = cut_after(text, '@'); has_revision) id.revision = std::move(named);
  id.repo = text;
  const std::string name = cut_after(text, '/');
  if (!is_name(text) || !is_name(name) || !is_revision(id.revision) || (has_file && !is_name(id.file)))
    return std::nullopt;
  return id;
}

}  // namespace polylora
