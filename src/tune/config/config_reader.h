// A training or export configuration before its keys mean anything: a YAML or JSON file, overridden from the
// command line, as a list of settings that remember where they were written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

/// One key as it was given. Values are kept as text: what type a key wants is the key's own business.
struct Setting {
  enum class Kind : uint8_t { kNull, kScalar, kList, kMapping };

  std::string key;
  std::string origin;  // "file.yaml:12" or "the command line"
  Kind kind = Kind::kNull;
  std::string text;                                          // kScalar
  std::vector<std::string> items;                            // kList
  std::vector<std::pair<std::string, std::string>> members;  // kMapping, in the order written
  bool nested = false;                                       // holds lists or mappings, which are left out

  /// "file.yaml:12: lora_rank", how errors about this setting begin.
  std::string where() const { return origin + ": " + key; }
  /// The value for messages: one line, shortened, printable.
  std::string shown() const;
};

/// All keys, each once; the command line's win over the file's.
class Settings {
 public:
  explicit Settings(std::string file_name) : file_name_(std::move(file_name)) {}

  /// nullptr when the key was not given. null counts as given here: it takes back what a file says.
  const Setting* find(std::string_view key) const;
  /// Given, and with a value other than null.
  bool has(std::string_view key) const;
  /// Where an error about `key` is: its setting, or the file as a whole.
  std::string where(std::string_view key) const;
  const std::vector<Setting>& all() const { return settings_; }

  void put(Setting setting);

 private:
  std::string file_name_;
  std::vector<Setting> settings_;
};

/// `text` as a YAML flow value ("[a, b]", "{a: 1}", "'quoted'") where it looks like one and parses, else as a
/// plain scalar; null, ~ and nothing are kNull. key and origin stay empty.
Setting parse_value(const std::string& text);

/// Reads `file` (empty: none) and the overrides after it, each `key=value`, `mapping_key.member=value`,
/// `--key value …`, `--key=value`, or `--key` alone for true and `--no_key` for false. `is_key` tells keys
/// apart from values in `--do_train lora_rank=4`. evaluation_strategy is eval_strategy's old name.
/// Throws kNotFound, kInvalidArgument (not YAML, not a mapping, a key twice; with file and line),
/// kResourceExhausted above 1 MiB.
Settings read_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                       const std::function<bool(std::string_view)>& is_key);

/// About 60 bytes of `text` for a message: valid UTF-8 on one line, control characters become '?'.
std::string printable(std::string_view text);

}  // namespace polylora
