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

/// What frequencies are divided by, as a tensor of f32 [E/2].
struct GgufRopeTensor {
  std::string name;
  std::vector<float> divisors;
};

/// rope_freqs.weight for llama3 scaling, rope_factors_short.weight and rope_factors_long.weight for longrope,
/// none for every other kind.
std::vector<GgufRopeTensor> gguf_rope_tensors(const ModelConfig& config);

/// What of this model llama.cpp assumes instead of reading it, and assumes otherwise; empty: nothing.
std::string gguf_lacks(const ModelConfig& config);

}  // namespace polylora
