// --bases: the flags of several base models.
#pragma once

#include <vector>

#include "cli/serve_flags.h"

namespace polylora {

/// Each item of `all.bases`, resolved. What an item does not say is as in `all`, but for its model, names and
/// adapters, and for its part of the KV cache memory (0: open). Throws kInvalidArgument naming the item for
/// flags that are wrong or no base's own, for names given twice, and for a model outside of the list.
std::vector<BaseFlags> parse_bases(const ServeFlags& all);

}  // namespace polylora
