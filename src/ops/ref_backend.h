// The specification: every op in naive loops, one thread, sums in double.
#pragma once

#include <memory>

#include "ops/training_backend.h"

namespace polylora {

std::unique_ptr<TrainingBackend> make_ref_backend();

}  // namespace polylora
