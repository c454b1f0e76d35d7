#include "cli/flag_set.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <utility>

#include "base/error.h"
#include "cli/config_file.h"
#include "cli/console.h"
#include "cli/values.h"

namespace polylora {
namespace {

constexpr size_t kHelpColumn = 38;

bool is_flag(std::string_view argument) {
  return argument.size() > 2 && argument.starts_with("--");
}

/// "--a_b=c_d" -> {"--a-b", "=c_d"}.
std::pair<std::string, std::string> split_flag(const std::string& argument) {
  const size_t equals = argument.find('=');
  std::string name = argument.substr(0, equals);
  if (is_flag(name)) std::replace(name.begin(), name.end(), '_', '-');
  return {std::move(name), equals == std::string::npos ? "" : argument.substr(equals)};
}

std::string without_double_gaps(std::string text) {
  for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
  return text;
}

template <typename Number>
Number parse_number(const std::string& flag, const std::string& text, Number smallest) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < smallest) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a number of at least {}", flag, text, smallest);
  }
  return value;
}

}  // namespace

FlagSet::FlagSet(const std::string& verb, const std::string& about) : app_(about, "polylora " + verb) {
  app_.get_formatter()->column_width(kHelpColumn);
  app_.set_help_flag();  // ours takes an optional group
  names_.emplace_back("--help");
}

CLI::Option* FlagSet::add(const std::string& name, const std::string& metavar, const std::string& help,
                          const std::string& shown, std::function<void(const std::string&)> set) {
  const std::string described = shown.empty() ? help : fmt::format("{} (default: {})", help, shown);
  names_.push_back(name);
  return app_.add_option_function<std::string>(name, std::move(set), described)
      ->option_text(metavar)
      ->group(group_)
      ->take_last();
}

void FlagSet::custom(const std::string& name, const std::string& metavar, const std::string& help,
                     const std::string& shown, std::function<void(const std::string&)> set) {
  add(name, metavar, help, shown, std::move(set));
}

void FlagSet::positional(const std::string& name, std::string& value, const std::string& help) {
  names_.push_back("--" + name);
  app_.add_option(name, value, help)->option_text(" ");
  app_.add_option("--" + name, value)->group("")->take_last();
}

void FlagSet::text(const std::string& name, std::string& value, const std::string& metavar,
                   const std::string& help) {
  add(name, metavar, help, value, [&value](const std::string& text) { value = text; });
}

void FlagSet::integer(const std::string& name, int& value, int smallest, const std::string& help) {
  add(name, "N", help, fmt::to_string(value),
      [&value, name, smallest](const std::string& text) { value = parse_number(name, text, smallest); });
}

void FlagSet::number(const std::string& name, double& value, const std::string& help,
                     const std::string& shown) {
  add(name, "X", help, shown.empty() ? fmt::to_string(value) : shown,
      [&value, name](const std::string& text) { value = parse_number(name, text, 0.0); });
}

void FlagSet::bytes(const std::string& name, size_t& value, const std::string& help,
                    const std::string& shown) {
  add(name, "BYTES", help, shown.empty() ? format_bytes(value) : shown,
      [&value, name](const std::string& text) {
        const int64_t parsed = parse_count(name, text);
        if (parsed <= 0) fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a positive size", name, text);
        value = static_cast<size_t>(parsed);
      });
}

void FlagSet::choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
                     const std::string& help) {
  add(name, fmt::format("{{{}}}", fmt::join(choices, ",")), help, value,
      [&value, name, choices](const std::string& text) {
        if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
          fail(ErrorCode::kInvalidArgument, "{}: '{}' is not one of {}", name, text,
               fmt::join(choices, ", "));
        }
        value = text;
      });
}

void FlagSet::list(const std::string& name, std::vector<std::string>& values, const std::string& metavar,
                   const std::string& help) {
  names_.push_back(name);
  app_.add_option(name, values, help)->option_text(metavar + " ...")->group(group_);
}

void FlagSet::toggle(const std::string& name, bool& value, const std::string& help) {
  names_.push_back(name);
  toggles_[name] = &value;
  app_.add_flag(name, value, value ? help + fmt::format(" (default: on; --no-{})", name.substr(2)) : help)
      ->group(group_)
      ->take_last();
}

void FlagSet::ignored(const std::string& name, bool takes_value, std::string_view why) {
  names_.push_back(name);
  const auto say = [name, why] { warn("{} has no effect: {}", name, why); };
  if (takes_value) {
    app_.add_option_function<std::string>(name, [say](const std::string&) { say(); })->group("")->take_last();
  } else {
    names_.push_back("--no-" + name.substr(2));
    app_.add_flag_callback(name + ",--no-" + name.substr(2), say)->group("")->take_last();
  }
}

void FlagSet::refused(const std::string& name, std::string_view why) {
  refused_[name] = why;
}

void FlagSet::refuse_rest_of(const FlagSet& all, std::string_view why) {
  for (const std::string& name : all.names_)
    if (std::find(names_.begin(), names_.end(), name) == names_.end()) refused(name, why);
}

std::string FlagSet::canonical(const std::string& argument) const {
  auto [name, value] = split_flag(argument);
  if (const auto alias = aliases_.find(name); alias != aliases_.end()) name = alias->second;
  if (!is_flag(name)) return argument;
  if (std::find(names_.begin(), names_.end(), name) != names_.end()) return name + value;
  if (name.starts_with("--no-") && is_toggle("--" + name.substr(5)) && value.empty()) {
    return "--" + name.substr(5) + "=false";
  }
  if (const auto refusal = refused_.find(name); refusal != refused_.end()) {
    fail(ErrorCode::kInvalidArgument, "{} is not supported: {}", name, refusal->second);
  }
  const std::string guess = nearest(name, names_);
  fail(ErrorCode::kInvalidArgument, "unknown flag {}{} ({} --help lists all)", name,
       guess.empty() ? "" : "; did you mean " + guess + "?", app_.get_name());
}

Arguments FlagSet::with_config(Arguments arguments) const {
  const auto is_config = [](const std::string& argument) { return split_flag(argument).first == "--config"; };
  const auto at = std::find_if(arguments.begin(), arguments.end(), is_config);
  if (at == arguments.end()) return arguments;

  std::string path;
  if (const std::string value = split_flag(*at).second; !value.empty()) {
    path = value.substr(1);
    arguments.erase(at);
  } else {
    if (at + 1 == arguments.end()) fail(ErrorCode::kInvalidArgument, "--config: a file name is missing");
    path = *(at + 1);
    arguments.erase(at, at + 2);
  }
  return merge_config(read_config_file(path), std::move(arguments));
}

bool FlagSet::parse(const Arguments& arguments) {
  Arguments canonical_arguments;
  for (const std::string& argument : with_config(arguments)) {
    canonical_arguments.push_back(canonical(argument));
    const std::string& flag = canonical_arguments.back();
    if (flag == "-h" || flag.starts_with("--help")) {
      print_help(flag.starts_with("--help=") ? flag.substr(7) : "");
      return false;
    }
  }
  std::reverse(canonical_arguments.begin(), canonical_arguments.end());  // CLI11 takes them from the back
  try {
    app_.parse(std::move(canonical_arguments));
  } catch (const CLI::ParseError& error) {
    fail(ErrorCode::kInvalidArgument, "{} ({} --help)", error.what(), app_.get_name());
  }
  return true;
}

void FlagSet::print_help(const std::string& group) {
  if (!group.empty()) {
    for (CLI::Option* option : app_.get_options({})) {
      if (!option->get_positional() && option->get_group() != group) option->group("");
    }
  }
  app_.footer("--config FILE.yaml reads flags from a file; --help=GROUP shows one group.");
  fmt::print("{}", without_double_gaps(app_.help()));
}

}  // namespace polylora
