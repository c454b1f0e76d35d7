#include "cli/parse.h"

#include <CLI/Config.hpp>
#include <CLI/Error.hpp>
#include <CLI/Formatter.hpp>
#include <CLI/Option.hpp>
#include <algorithm>

#include "base/error.h"
#include "cli/args.h"

namespace polylora {
namespace {

std::vector<std::string> flag_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_fnames()) names.push_back("--" + name);
  }
  return names;
}

[[noreturn]] void fail_unknown(const CLI::App& app, const std::string& word) {
  const std::string near = nearest(word.substr(0, word.find('=')), flag_names(app));
  fail(ErrorCode::kInvalidArgument, "unknown argument {}{}; see polylora {} --help", word,
       near.empty() ? "" : " (did you mean " + near + "?)", app.get_name());
}

}  // namespace

std::optional<int> parse_words(CLI::App& app, std::vector<std::string> words) {
  app.allow_extras();
  words = dashed_flags(std::move(words));
  std::reverse(words.begin(), words.end());  // CLI11 consumes its vector from the back
  try {
    app.parse(words);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return 0;
  } catch (const CLI::ParseError& error) {
    // A misspelt flag often leaves something else missing; it is the better message.
    for (const std::string& word : app.remaining()) {
      if (word.starts_with("-")) fail_unknown(app, word);
    }
    fail(ErrorCode::kInvalidArgument, "{}; see polylora {} --help", error.what(), app.get_name());
  }
  for (const std::string& word : app.remaining()) fail_unknown(app, word);
  return std::nullopt;
}

}  // namespace polylora
