#include "tune/config/config_keys.h"

#include <algorithm>
#include <cstdlib>

#include "base/nearest.h"

namespace polylora {
namespace {

/// Calls `visit(word)` for every non-empty piece; stops when it returns true and says so.
template <typename Visit>
bool any_piece(std::string_view text, char separator, const Visit& visit) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0 && visit(text.substr(0, end))) return true;
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return false;
}

/// "false" is also no, off, 0; "0" is also 0.0.
bool same_value(std::string_view wanted, std::string_view given) {
  if (wanted == given) return true;
  if (wanted == "true" || wanted == "false") return parse_switch(wanted) == parse_switch(given);
  const std::optional<double> number = parse_decimal(wanted);
  return number && number == parse_decimal(given);
}

bool extra_keys_allowed() {
  const char* value = std::getenv("ALLOW_EXTRA_ARGS");
  return value && parse_switch(value).value_or(false);
}

}  // namespace

bool is_harmless(const ForeignKeys& row, const Setting& setting) {
  if (row.harmless == "*" || setting.kind == Setting::Kind::kNull) return true;
  const auto listed = [&row](const std::string& given) {
    return any_piece(row.harmless, ',', [&](std::string_view word) { return same_value(word, given); });
  };
  if (setting.kind == Setting::Kind::kScalar) return listed(setting.text);
  return setting.kind == Setting::Kind::kList && !setting.nested &&
         std::all_of(setting.items.begin(), setting.items.end(), listed);
}

const ForeignKeys* find_foreign(const std::vector<ForeignKeys>& rows, std::string_view key) {
  for (const ForeignKeys& row : rows) {
    if (any_piece(row.names, ' ', [key](std::string_view name) { return name == key; })) return &row;
  }
  return nullptr;
}

void append_names(const std::vector<ForeignKeys>& rows, std::vector<std::string>& names) {
  for (const ForeignKeys& row : rows) {
    any_piece(row.names, ' ', [&names](std::string_view name) {
      names.emplace_back(name);
      return false;
    });
  }
}

void ForeignKeyNotices::take(const ForeignKeys& row, const Setting& setting) {
  if (is_harmless(row, setting)) return;
  if (row.answer == ForeignKeys::Answer::kRefuse) {
    fail(row.code, "{}: {} is not supported: {}", setting.where(), setting.shown(), row.reason);
  }
  for (Group& group : groups_) {
    if (group.row == &row) return group.keys.push_back(setting.key);
  }
  groups_.push_back({&row, {setting.key}});
}

std::vector<std::string> ForeignKeyNotices::lines() const {
  std::vector<std::string> lines;
  for (const Group& group : groups_) {
    const bool one = group.keys.size() == 1;
    lines.push_back(fmt::format("{} {} accepted and {} nothing here: {}", fmt::join(group.keys, ", "),
                                one ? "is" : "are", one ? "does" : "do", group.row->reason));
  }
  return lines;
}

std::string unknown_key(const Setting& setting, const std::vector<std::string>& known) {
  const std::string shown = fmt::format("{}: {}", setting.origin, printable(setting.key));
  if (extra_keys_allowed()) return shown + " is unknown and ignored (ALLOW_EXTRA_ARGS)";
  const std::string guess = nearest(setting.key, known);
  fail(ErrorCode::kInvalidArgument, "{}: unknown key; {}", shown,
       guess.empty() ? "docs/training.md lists all" : "did you mean " + guess + "?");
}

}  // namespace polylora
