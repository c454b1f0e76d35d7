// The metadata of a Llama-like model as llama.cpp's converter writes it: the reverse of io/gguf_config.h and
// io/gguf_tokenizer.h. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/gguf_writer.h"

namespace polylora {

/// general.* and <architecture>.*, without the vocabulary. `dtype`: of the matrices.
GgufMetadata gguf_model_metadata(const ModelConfig& config, const std::string& name, DType dtype);

/// tokenizer.*: a byte-level BPE tokenizer.json with types, merges, special tokens and the chat template;
/// when the model has no tokenizer, the kind "none" and the ids of bos and eos, which llama.cpp can load.
/// Throws kUnsupported for any other kind of tokenizer and for a pre-tokenizer that has no GGUF name.
void add_gguf_tokenizer(const ModelConfig& config, const TextAssets& text, const std::string& where,
                        GgufMetadata& metadata);

/// What llama3 rope scaling divides each frequency by (the tensor rope_freqs.weight, [E/2]); empty for every
/// other kind of scaling.
std::vector<float> gguf_rope_divisors(const ModelConfig& config);

}  // namespace polylora
