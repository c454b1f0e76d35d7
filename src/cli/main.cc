#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/args.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

struct Verb {
  std::string_view name;
  int (*run)(std::vector<std::string> words);
  std::string_view summary;
};

constexpr Verb kVerbs[] = {
    {"serve", run_serve, "serve a model and its LoRA adapters over HTTP (OpenAI API)"},
    {"chat", run_chat, "talk to a model in the terminal, switching adapters"},
};

void print_usage() {
  fmt::print("polylora {}: one base model, many LoRA adapters\n\nUsage: polylora VERB …\n\n",
             POLYLORA_VERSION);
  for (const Verb& verb : kVerbs) fmt::print("  {:<10} {}\n", verb.name, verb.summary);
  fmt::print("  {:<10} {}\n\npolylora VERB --help lists a verb's flags.\n", "version", "print the version");
}

int run_verb(const std::string& name, std::vector<std::string> words) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    if (verb.name == name) return verb.run(std::move(words));
    names.emplace_back(verb.name);
  }
  const std::string near = nearest(name, names);
  fail(ErrorCode::kInvalidArgument, "unknown verb '{}'{}; see polylora --help", name,
       near.empty() ? "" : " (did you mean " + near + "?)");
}

int run(std::vector<std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_usage();
    return words.empty() ? 2 : 0;
  }
  if (words[0] == "version" || words[0] == "--version") {
    fmt::print("polylora {}\n", POLYLORA_VERSION);
    return 0;
  }
  const std::string verb = words.front();
  words.erase(words.begin());
  return run_verb(verb, std::move(words));
}

}  // namespace
}  // namespace polylora

int main(int argc, char** argv) {
  try {
    return polylora::run({argv + 1, argv + argc});
  } catch (const polylora::Error& error) {
    fmt::print(stderr, "polylora: error: {}\n", error.what());
    return error.code() == polylora::ErrorCode::kInvalidArgument ? 2 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "polylora: error: {}\n", error.what());
    return 1;
  }
}
