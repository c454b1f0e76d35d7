#include <fmt/format.h>

#include <cstdio>

#include "cli/verbs.h"

namespace polylora {

int run_version(const Arguments& arguments) {
  FlagSet flags("version", "Prints the version.");
  if (flags.parse(arguments)) fmt::print("polylora {}\n", POLYLORA_VERSION);
  return 0;
}

}  // namespace polylora
