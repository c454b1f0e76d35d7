// How much memory this process may still take.
#pragma once

#include <cstddef>

namespace polylora {

/// Bytes that the machine has free, or that the process's control group still allows, whichever is less.
size_t available_memory();

}  // namespace polylora
