// The flags of one verb: CLI11 underneath, vLLM's habits on top.
//
//   --max_model_len is --max-model-len      --no-X switches a switch off
//   the last one of a repeated flag wins    --config FILE.yaml holds flags too, and the command line wins
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// Arguments after the verb.
using Arguments = std::vector<std::string>;

/// Bound variables hold the defaults before parse() and the values afterwards; --help shows the defaults.
class FlagSet {
 public:
  FlagSet(const std::string& verb, const std::string& about);

  /// Flags added from here on are listed under this heading.
  void group(const std::string& name) { group_ = name; }

  /// Given by position, or as --name.
  void positional(const std::string& name, std::string& value, const std::string& help);
  void text(const std::string& name, std::string& value, const std::string& metavar, const std::string& help);
  void integer(const std::string& name, int& value, int smallest, const std::string& help);
  /// Not negative. `shown` says what the default is when the variable does not.
  void number(const std::string& name, double& value, const std::string& help, const std::string& shown = {});
  /// Takes 4G, 512M and the like; `shown` as above.
  void bytes(const std::string& name, size_t& value, const std::string& help, const std::string& shown = {});
  void choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
              const std::string& help);
  /// One or more values; may be repeated.
  void list(const std::string& name, std::vector<std::string>& values, const std::string& metavar,
            const std::string& help);
  /// --name and --no-name.
  void toggle(const std::string& name, bool& value, const std::string& help);
  /// Any other conversion of one value; `set` throws Error. `shown` is the default.
  void custom(const std::string& name, const std::string& metavar, const std::string& help,
              const std::string& shown, std::function<void(const std::string&)> set);
  /// Understood, warned about once, and not listed by --help.
  void ignored(const std::string& name, bool takes_value, std::string_view why);
  /// Refused with `why`: ignoring it would change answers silently.
  void refused(const std::string& name, std::string_view why);
  /// Refuses every flag of `all` that is none of these.
  void refuse_rest_of(const FlagSet& all, std::string_view why);
  /// Another spelling of a flag, say "-tp".
  void alias(const std::string& spelling, const std::string& name) { aliases_[spelling] = name; }

  /// False when --help was asked for and printed. Throws kInvalidArgument for anything wrong.
  bool parse(const Arguments& arguments);

 private:
  CLI::Option* add(const std::string& name, const std::string& metavar, const std::string& help,
                   const std::string& shown, std::function<void(const std::string&)> set);
  /// The spelling that CLI11 gets; refuses flags that do not exist.
  std::string canonical(const std::string& argument) const;
  Arguments with_config(Arguments arguments) const;
  void print_help(const std::string& group);
  bool is_toggle(const std::string& name) const { return toggles_.contains(name); }

  CLI::App app_;
  std::string group_;
  std::vector<std::string> names_;  // "--host"
  std::map<std::string, bool*> toggles_;
  std::map<std::string, std::string> aliases_;
  std::map<std::string, std::string> refused_;
};

}  // namespace polylora
