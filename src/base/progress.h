// Progress of long work, reported by the library and drawn (or not) by the caller.
#pragma once

#include <functional>
#include <string_view>

namespace polylora {

/// Called with the work's name and a fraction in [0, 1]; may be empty. Calls come from the working thread.
using ProgressFn = std::function<void(std::string_view what, double fraction)>;

}  // namespace polylora
