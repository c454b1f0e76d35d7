#include "cli/args.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace polylora {
namespace {

bool is_flag(std::string_view word) {
  return word.size() > 2 && word.starts_with("--");
}

std::string flag_name(std::string_view word) {
  return std::string(word.substr(0, word.find('=')));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

void append_yaml_flag(const std::string& flag, const YAML::Node& value, std::vector<std::string>& words) {
  if (value.IsSequence()) {
    words.push_back(flag);
    for (const YAML::Node& item : value) words.push_back(item.as<std::string>());
    return;
  }
  if (!value.IsScalar())
    fail(ErrorCode::kInvalidArgument, "--config: the value of {} must be a scalar or a list", flag);
  const std::string text = value.as<std::string>();
  if (text == "true" || text == "True") {
    words.push_back(flag);
  } else if (text != "false" && text != "False") {
    words.push_back(flag + "=" + text);
  }
}

YAML::Node load_yaml(const std::string& path) {
  try {
    return YAML::LoadFile(path);
  } catch (const YAML::Exception& error) {
    fail(ErrorCode::kInvalidArgument, "--config: cannot read {}: {}", path, error.what());
  }
}

}  // namespace

std::vector<std::string> dashed_flags(std::vector<std::string> words) {
  for (std::string& word : words) {
    if (!is_flag(word)) continue;
    const size_t end = std::min(word.find('='), word.size());
    std::replace(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
  }
  return words;
}

std::vector<std::string> expand_config_file(std::vector<std::string> words) {
  std::string path;
  for (size_t i = 0; i < words.size(); ++i) {
    if (flag_name(words[i]) != "--config") continue;
    const bool inline_value = words[i].find('=') != std::string::npos;
    if (!inline_value && i + 1 == words.size())
      fail(ErrorCode::kInvalidArgument, "--config needs a file name");
    path = inline_value ? words[i].substr(words[i].find('=') + 1) : words[i + 1];
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i),
                words.begin() + static_cast<std::ptrdiff_t>(i) + (inline_value ? 1 : 2));
    break;
  }
  if (path.empty()) return words;

  const YAML::Node config = load_yaml(path);
  if (!config.IsMap()) fail(ErrorCode::kInvalidArgument, "--config: {} must hold a mapping of flags", path);
  const bool has_model = !words.empty() && !words.front().starts_with("-");
  std::vector<std::string> expanded, flags;
  if (has_model) expanded.push_back(words.front());
  for (const auto& entry : config) {
    std::string key = entry.first.as<std::string>();
    std::replace(key.begin(), key.end(), '_', '-');
    const std::string flag = "--" + key;
    const bool given = std::any_of(words.begin(), words.end(),
                                   [&](const std::string& word) { return flag_name(word) == flag; });
    if (key == "model") {
      if (!has_model) expanded.insert(expanded.begin(), entry.second.as<std::string>());
    } else if (!given) {
      append_yaml_flag(flag, entry.second, flags);
    }
  }
  expanded.insert(expanded.end(), flags.begin(), flags.end());
  expanded.insert(expanded.end(), words.begin() + (has_model ? 1 : 0), words.end());
  return expanded;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

size_t parse_size(std::string_view text, std::string_view flag) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const std::string_view suffix : {"iB", "B"}) {
    if (unit.size() > suffix.size() && unit.ends_with(suffix)) unit.remove_suffix(suffix.size());
  }
  double factor = -1;
  if (unit.empty()) factor = 1;
  if (unit == "k") factor = 1e3;
  if (unit == "K") factor = 1024.0;
  if (unit == "m") factor = 1e6;
  if (unit == "M") factor = 1024.0 * 1024;
  if (unit == "g") factor = 1e9;
  if (unit == "G") factor = 1024.0 * 1024 * 1024;
  if (error != std::errc() || factor < 0 || number < 0 || number * factor > 1e18) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a size; write 4096, 4k (thousands), 4K, 512M or 2G",
         flag, text);
  }
  return static_cast<size_t>(number * factor);
}

}  // namespace polylora
