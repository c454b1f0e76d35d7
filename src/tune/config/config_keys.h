// The keys of a configuration as rows: what a key is stored in, or why it does nothing here, or why it is
// refused. Validation, types, suggestions and notices all come from these rows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tune/config/config_values.h"
#include "tune/config/train_config.h"

namespace polylora {

/// A key that is read. `store` checks the value and keeps it; null never reaches it: the default stays.
template <typename Config>
struct KeyRow {
  std::string_view name;
  std::function<void(Config&, const Setting&)> store;
};

/// Keys of the peer that nothing here reads. A value in `harmless` (names separated by commas; "*": any) asks
/// for nothing and passes silently; any other gives a notice, or is an error where ignoring it would change
/// the result.
struct ForeignKeys {
  enum class Answer : uint8_t { kNotice, kRefuse };

  std::string_view names;  // separated by spaces
  Answer answer;
  std::string_view harmless;
  std::string_view reason;  // kNotice: why nothing happens; kRefuse: what to do
  ErrorCode code = ErrorCode::kInvalidArgument;
};

const std::vector<KeyRow<TrainConfig>>& train_keys();
const std::vector<ForeignKeys>& foreign_train_keys();
const std::vector<KeyRow<ExportConfig>>& export_keys();
const std::vector<ForeignKeys>& foreign_export_keys();

/// Whether `setting` asks for nothing, by the row's list.
bool is_harmless(const ForeignKeys& row, const Setting& setting);
/// The row that has `key`, or nullptr.
const ForeignKeys* find_foreign(const std::vector<ForeignKeys>& rows, std::string_view key);
/// Throws for a refused key; adds `key` to its row's notice otherwise. Notices of one row share one line.
class ForeignKeyNotices {
 public:
  void take(const ForeignKeys& row, const Setting& setting);
  std::vector<std::string> lines() const;

 private:
  struct Group {
    const ForeignKeys* row;
    std::vector<std::string> keys;
  };
  std::vector<Group> groups_;
};

/// "x.yaml:7: lora_rnak: unknown key; did you mean lora_rank?", or with ALLOW_EXTRA_ARGS=1 a notice.
std::string unknown_key(const Setting& setting, const std::vector<std::string>& known);

/// All names of a table.
template <typename Config>
void append_names(const std::vector<KeyRow<Config>>& rows, std::vector<std::string>& names) {
  for (const auto& row : rows) names.emplace_back(row.name);
}
void append_names(const std::vector<ForeignKeys>& rows, std::vector<std::string>& names);

template <typename Config>
const KeyRow<Config>* find_key(const std::vector<KeyRow<Config>>& rows, std::string_view key) {
  for (const auto& row : rows) {
    if (row.name == key) return &row;
  }
  return nullptr;
}

// --- what `store` can be -----------------------------------------------------------------------------------

template <typename Config>
auto stored(bool Config::*member) {
  return [member](Config& config, const Setting& setting) { config.*member = as_switch(setting); };
}

template <typename Config>
auto stored(std::string Config::*member) {
  return [member](Config& config, const Setting& setting) { config.*member = as_text(setting); };
}

template <typename Config>
auto stored(std::filesystem::path Config::*member) {
  return [member](Config& config, const Setting& setting) { config.*member = as_text(setting); };
}

template <typename Config>
auto stored(std::vector<std::string> Config::*member) {
  return [member](Config& config, const Setting& setting) { config.*member = as_names(setting); };
}

template <typename Config, typename Member>
auto stored(Member Config::*member, const Range& range) {
  return [member, range](Config& config, const Setting& setting) {
    if constexpr (std::is_same_v<Member, double> || std::is_same_v<Member, std::optional<double>>) {
      config.*member = as_number(setting, range);
    } else if constexpr (std::is_same_v<Member, std::vector<double>>) {
      config.*member = as_numbers(setting, range);
    } else if constexpr (std::is_same_v<Member, int>) {
      const int64_t value = as_integer(setting, range);
      if (value != static_cast<int>(value)) fail_wanted(setting, "an integer of at most 2147483647");
      config.*member = static_cast<int>(value);
    } else {
      config.*member = as_integer(setting, range);
    }
  };
}

/// One of a few words.
template <typename Config, typename Member>
auto stored(Member Config::*member, std::vector<std::pair<std::string_view, Member>> choices) {
  return [member, choices](Config& config, const Setting& setting) {
    std::string wanted;
    for (const auto& [word, value] : choices) {
      if (setting.kind == Setting::Kind::kScalar && setting.text == word) {
        config.*member = value;
        return;
      }
      wanted += fmt::format("{}{}", wanted.empty() ? "one of " : ", ", word);
    }
    fail_wanted(setting, wanted);
  };
}

}  // namespace polylora
