// The names of architectures in GGUF files (llama.cpp's general.architecture).
#pragma once

#include <span>
#include <string_view>

namespace polylora {

struct GgufArchitecture {
  std::string_view name;        // "gemma3"
  std::string_view model_type;  // config.json's: "gemma3_text"
  std::string_view hf_class;    // config.json's "architectures"
  bool interleaves_heads;  // the two rotary halves of every q and k head (llama.cpp's LlamaModel.permute)
};

/// The first of a name is what it is read as, but for a "llama" with experts, which is a Mixtral, and one
/// with a window, which is a Mistral.
std::span<const GgufArchitecture> gguf_architectures();

/// Throws kUnsupported, naming `where`, with the list of known ones.
const GgufArchitecture& gguf_architecture_named(std::string_view name, std::string_view where);
const GgufArchitecture& gguf_architecture_of(std::string_view model_type);

}  // namespace polylora
