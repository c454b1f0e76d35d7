// vLLM flags that have nothing to do here: accepted with a warning, or refused where silence would change
// answers.
#pragma once

#include "cli/flag_set.h"

namespace polylora {

void add_vllm_flags(FlagSet& flags);

}  // namespace polylora
