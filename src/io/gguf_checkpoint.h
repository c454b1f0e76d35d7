// GGUF model files seen the Hugging Face way.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "io/checkpoint.h"

namespace polylora {

/// "blk.3.attn_q.weight". All experts' matrices of a kind are one tensor [experts, rows, cols] with one name.
std::string gguf_tensor_name(const TensorSpec& spec);

/// The reverse, without ".weight", in files of that general.architecture: "blk.3.attn_q" is
/// "model.layers.3.self_attn.q_proj". Empty for other names.
std::string hf_module_path(std::string_view gguf_module, std::string_view architecture);

/// llama.cpp interleaves the two rotary halves of every head in these (see gguf_checkpoint.cc).
bool is_rotary_interleaved(const TensorSpec& spec, const ModelConfig& config);

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file);

}  // namespace polylora
