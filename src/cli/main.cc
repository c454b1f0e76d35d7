// polylora VERB [ARGUMENTS]
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/console.h"
#include "cli/values.h"
#include "cli/verbs.h"

namespace polylora {
namespace {

struct Verb {
  std::string_view name;
  std::string_view about;
  int (*run)(const Arguments&);
};

int run_help(const Arguments& arguments);

constexpr std::array<Verb, 8> kVerbs = {{
    {"train", "fine-tune a LoRA adapter as a LLaMA-Factory YAML says", run_train},
    {"export", "merge adapters into their base as a LLaMA-Factory YAML says", run_export},
    {"verify", "measure that a merged model answers as its base with the adapter", run_verify},
    {"serve", "serve a model and its adapters over HTTP (OpenAI- and vLLM-compatible)", run_serve},
    {"chat", "talk to a model and its adapters in the terminal", run_chat},
    {"bench", "measure what this machine makes of it", run_bench},
    {"version", "print the version", run_version},
    {"help", "print this", run_help},
}};

int run_help(const Arguments&) {
  fmt::print("polylora: one base model, many LoRA adapters\n\nUsage: polylora VERB [ARGUMENTS]\n\nVerbs:\n");
  for (const Verb& verb : kVerbs) fmt::print("  {:<10}{}\n", verb.name, verb.about);
  fmt::print("\n`polylora VERB --help` lists the flags of a verb.\n");
  return 0;
}

const Verb& find_verb(std::string_view name) {
  if (name == "--version" || name == "-v") name = "version";
  if (name == "--help" || name == "-h") name = "help";
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    if (verb.name == name) return verb;
    names.emplace_back(verb.name);
  }
  fail(ErrorCode::kInvalidArgument, "unknown verb '{}'{} (polylora help)", name, suggestion(name, names));
}

int run(const Arguments& arguments) {
  if (arguments.empty()) {
    run_help({});
    return 2;
  }
  return find_verb(arguments.front()).run({arguments.begin() + 1, arguments.end()});
}

}  // namespace
}  // namespace polylora

int main(int argc, char** argv) {
  using polylora::ErrorCode;
  try {
    return polylora::run({argv + 1, argv + argc});
  } catch (const polylora::Error& error) {
    polylora::print_line(fmt::format("polylora: error: {}", error.what()));
    return error.code() == ErrorCode::kInvalidArgument ? 2 : 1;
  } catch (const std::exception& error) {
    polylora::print_line(fmt::format("polylora: error: {}", error.what()));
    return 1;
  }
}
