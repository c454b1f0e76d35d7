// The fast CPU implementation of the op list.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "ops/training_backend.h"

namespace polylora {

/// The instruction sets that this build has and this machine can run, best first.
std::vector<std::string_view> available_isas();

/// `isa` empty = the best available. Throws kInvalidArgument for an unknown name, kUnsupported for one that
/// this machine cannot run. `threads` 0 = one per usable core.
std::unique_ptr<TrainingBackend> make_cpu_backend(std::string_view isa, int threads);

}  // namespace polylora
