#include "tune/config/config_reader.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxShown = 60;
constexpr std::string_view kCommandLine = "the command line";

/// YAML nodes to settings. Aliases make a small file large, so what they expand to is counted.
class NodeReader {
 public:
  explicit NodeReader(std::string origin) : origin_(std::move(origin)) {}

  Setting read(const YAML::Node& node) {
    Setting setting;
    if (node.IsScalar()) {
      setting.kind = Setting::Kind::kScalar;
      setting.text = scalar(node);
    } else if (node.IsSequence()) {
      setting.kind = Setting::Kind::kList;
      for (const YAML::Node& item : node) add_item(setting, item);
    } else if (node.IsMap()) {
      setting.kind = Setting::Kind::kMapping;
      for (const auto& member : node) add_member(setting, member.first, member.second);
    }
    return setting;
  }

 private:
  std::string scalar(const YAML::Node& node) {
    std::string text = node.IsScalar() ? node.Scalar() : std::string();
    expanded_ += text.size() + 1;
    if (expanded_ > kMaxBytes) {
      fail(ErrorCode::kResourceExhausted, "{}: its aliases expand to more than {} bytes", origin_, kMaxBytes);
    }
    return text;
  }

  void add_item(Setting& setting, const YAML::Node& item) {
    setting.nested |= item.IsSequence() || item.IsMap();
    setting.items.push_back(scalar(item));
  }

  void add_member(Setting& setting, const YAML::Node& name, const YAML::Node& value) {
    setting.nested |= !name.IsScalar() || value.IsSequence() || value.IsMap();
    std::string first = scalar(name);
    setting.members.emplace_back(std::move(first), scalar(value));
  }

  std::string origin_;
  size_t expanded_ = 0;
};

std::string current_name(const std::string& key) {
  return key == "evaluation_strategy" ? "eval_strategy" : key;
}

void read_file(const std::filesystem::path& file, Settings& settings) {
  const std::string name = file.string();
  const std::string text = read_text_file(file, kMaxBytes);
  NodeReader reader(name);
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return;  // everything is on the command line
    if (!root.IsMap()) {
      fail(ErrorCode::kInvalidArgument, "{}:1: expected lines of the form `key: value`", name);
    }
    for (const auto& member : root) {
      const std::string origin = fmt::format("{}:{}", name, member.first.Mark().line + 1);
      if (!member.first.IsScalar()) {
        fail(ErrorCode::kInvalidArgument, "{}: expected `key: value` with a plain key", origin);
      }
      Setting setting = reader.read(member.second);
      setting.key = current_name(member.first.Scalar());
      setting.origin = origin;
      if (const Setting* first = settings.find(setting.key)) {
        fail(ErrorCode::kInvalidArgument, "{}: {}: the key is given twice (first in {}); remove one", origin,
             printable(setting.key), first->origin);
      }
      settings.put(std::move(setting));
    }
  } catch (const YAML::Exception& error) {
    fail(ErrorCode::kInvalidArgument, "{}:{}: not valid YAML: {}", name, std::max(0, error.mark.line) + 1,
         printable(error.msg));
  }
}

/// The overrides, token by token.
class CommandLine {
 public:
  CommandLine(const std::vector<std::string>& tokens, const std::function<bool(std::string_view)>& is_key,
              Settings& settings)
      : tokens_(tokens), is_key_(is_key), settings_(settings) {}

  void read() {
    while (at_ < tokens_.size()) {
      const std::string& token = tokens_[at_++];
      const size_t equals = token.find('=');
      if (token.starts_with("--")) {
        read_flag(flag_name(token.substr(2, equals == std::string::npos ? equals : equals - 2)),
                  equals == std::string::npos ? std::nullopt : std::optional(token.substr(equals + 1)));
      } else if (equals != std::string::npos && equals > 0) {
        put(token.substr(0, equals), parse_value(token.substr(equals + 1)));
      } else {
        fail(ErrorCode::kInvalidArgument, "{}: '{}' is neither key=value nor --key value", kCommandLine,
             printable(token));
      }
    }
  }

 private:
  static std::string flag_name(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
  }

  void read_flag(const std::string& name, const std::optional<std::string>& value) {
    if (value) return put(name, parse_value(*value));
    const size_t first = at_;
    while (at_ < tokens_.size() && !starts_another(tokens_[at_])) ++at_;
    const size_t count = at_ - first;
    if (count == 1) return put(name, parse_value(tokens_[first]));
    Setting setting;
    if (count == 0) {
      const bool off = name.starts_with("no_") && !is_key_(name);
      setting.kind = Setting::Kind::kScalar;
      setting.text = off ? "false" : "true";
      return put(off ? name.substr(3) : name, std::move(setting));
    }
    setting.kind = Setting::Kind::kList;
    setting.items.assign(tokens_.begin() + static_cast<ptrdiff_t>(first),
                         tokens_.begin() + static_cast<ptrdiff_t>(at_));
    put(name, std::move(setting));
  }

  bool starts_another(const std::string& token) const {
    if (token.starts_with("--")) return true;
    const size_t equals = token.find('=');
    return equals != std::string::npos && is_key_(token.substr(0, std::min(equals, token.find('.'))));
  }

  void put(const std::string& name, Setting setting) {
    const size_t dot = name.find('.');
    if (dot != std::string::npos && is_key_(name.substr(0, dot))) {
      return put_member(name.substr(0, dot), name.substr(dot + 1), setting);
    }
    setting.key = current_name(name);
    setting.origin = kCommandLine;
    settings_.put(std::move(setting));
  }

  /// lr_scheduler_kwargs.min_lr=1e-6: one member more, or another value for it.
  void put_member(const std::string& key, const std::string& member, const Setting& value) {
    Setting whole;
    if (const Setting* known = settings_.find(key); known && known->kind == Setting::Kind::kMapping) {
      whole = *known;
    }
    whole.kind = Setting::Kind::kMapping;
    whole.nested |= value.kind == Setting::Kind::kList || value.kind == Setting::Kind::kMapping;
    std::erase_if(whole.members, [&](const auto& old) { return old.first == member; });
    whole.members.emplace_back(member, value.text);
    put(key, std::move(whole));
  }

  const std::vector<std::string>& tokens_;
  const std::function<bool(std::string_view)>& is_key_;
  Settings& settings_;
  size_t at_ = 0;
};

}  // namespace

std::string printable(std::string_view text) {
  std::string line = to_valid_utf8(text.substr(0, kMaxShown));
  for (char& c : line) {
    if ((c >= 0 && c < ' ') || c == 0x7F) c = '?';
  }
  return text.size() > kMaxShown ? line + "…" : line;
}

std::string Setting::shown() const {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kScalar:
      return "'" + printable(text) + "'";
    case Kind::kList:
      return "the list [" + printable(fmt::format("{}", fmt::join(items, ", "))) + "]";
    case Kind::kMapping:
      return "a mapping";
  }
  return "null";
}

const Setting* Settings::find(std::string_view key) const {
  const auto at = std::find_if(settings_.begin(), settings_.end(),
                               [key](const Setting& setting) { return setting.key == key; });
  return at == settings_.end() ? nullptr : &*at;
}

bool Settings::has(std::string_view key) const {
  const Setting* setting = find(key);
  return setting && setting->kind != Setting::Kind::kNull;
}

std::string Settings::where(std::string_view key) const {
  const Setting* setting = find(key);
  return setting ? setting->where() : fmt::format("{}: {}", file_name_, key);
}

void Settings::put(Setting setting) {
  std::erase_if(settings_, [&](const Setting& old) { return old.key == setting.key; });
  settings_.push_back(std::move(setting));
}

Setting parse_value(const std::string& text) {
  Setting setting;
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return setting;
  if (std::string_view("[{'\"").find(text.front()) != std::string_view::npos && text.size() <= kMaxBytes) {
    try {
      return NodeReader("a value").read(YAML::Load(text));
    } catch (const YAML::Exception&) {
      // Not YAML after all: "[INST] Hello" is a text.
    }
  }
  setting.kind = Setting::Kind::kScalar;
  setting.text = text;
  return setting;
}

Settings read_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                       const std::function<bool(std::string_view)>& is_key) {
  Settings settings(file.empty() ? std::string(kCommandLine) : file.string());
  if (!file.empty()) read_file(file, settings);
  CommandLine(overrides, is_key, settings).read();
  return settings;
}

}  // namespace polylora
