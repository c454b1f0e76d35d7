// GGUF model files seen the Hugging Face way.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "io/checkpoint.h"

namespace polylora {

/// "blk.3.attn_q.weight".
std::string gguf_tensor_name(const TensorSpec& spec);

/// The reverse, without ".weight": "blk.3.attn_q" is "model.layers.3.self_attn.q_proj". Empty for other
/// names.
std::string hf_module_path(std::string_view gguf_module);

/// llama.cpp interleaves the two rotary halves of every head in these (see gguf_checkpoint.cc).
bool is_rotary_interleaved(const TensorSpec& spec, const ModelConfig& config);

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file);

}  // namespace polylora
