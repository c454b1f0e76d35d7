// polylora bench NAME [ARGUMENTS]
#include "cli/bench.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/verbs.h"

namespace polylora {

int run_bench(const Arguments& arguments) {
  const std::string name = arguments.empty() ? "--help" : arguments.front();
  if (name == "train") return run_bench_train({arguments.begin() + 1, arguments.end()});
  if (name != "--help" && name != "-h")
    fail(ErrorCode::kInvalidArgument, "unknown benchmark '{}'; there is: train", name);
  fmt::print("Usage: polylora bench NAME [ARGUMENTS]\n\n  train   tokens/s and memory of LoRA training\n");
  return arguments.empty() ? 2 : 0;
}

}  // namespace polylora
