// The specification: every op in naive loops, one thread, sums in double.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace polylora {

std::unique_ptr<Backend> make_ref_backend();

}  // namespace polylora
