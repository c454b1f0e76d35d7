// The kinds of adapter files, one function each. Internal to io/adapter_source.cc, which chooses between
// them.
#pragma once

#include <filesystem>

#include "io/adapter_source.h"

namespace polylora {

/// adapter_config.json and adapter_model.safetensors, as PEFT and all who use it write them (LLaMA-Factory,
/// axolotl, unsloth, TRL).
AdapterSource open_peft_folder(const std::filesystem::path& folder);

/// adapter_config.json and adapters.safetensors, as mlx-lm writes them: MODULE.lora_a [K,R], MODULE.lora_b
/// [R,N] and, with DoRA, MODULE.m [N].
AdapterSource open_mlx_folder(const std::filesystem::path& folder);

/// A GGUF file as llama.cpp's convert_lora_to_gguf.py writes it: general.type "adapter", adapter.type "lora",
/// adapter.lora.alpha, and for every adapted tensor NAME its NAME.lora_a [R,K] and NAME.lora_b [N,R]; of the
/// embedding A is [V,R]. B's rows follow those of the weight, so those of q and k are interleaved.
AdapterSource open_gguf_adapter(const std::filesystem::path& file, int64_t head_dim);

/// The parts that the two kinds of folders share: path, text of adapter_config.json, the open file of
/// tensors.
AdapterSource open_adapter_folder(const std::filesystem::path& folder, const char* weights_name);

/// A tensor that lies in the file as read() gives it, and one of two dimensions that lies there transposed.
StoredTensor stored_rows(const TensorView& tensor);
StoredTensor stored_transposed(const TensorView& tensor);

}  // namespace polylora
