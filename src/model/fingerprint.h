// Which model it is, whatever its format.
#pragma once

#include <string>

#include "model/weights.h"

namespace polylora {

/// 16 hex digits over the shapes and the gains of all norms: those are held in full precision by every
/// format, so that a model, its GGUF and its quantizations have one fingerprint. Models trained apart have
/// different ones; a model and what LoRA made of it do not.
std::string base_fingerprint(const Model& model);

}  // namespace polylora
