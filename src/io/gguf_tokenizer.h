// A GGUF vocabulary rendered as Hugging Face tokenizer files, so that there is one tokenizer reader.
#pragma once

#include "io/checkpoint.h"
#include "io/gguf.h"

namespace polylora {

/// Fills tokenizer_json, tokenizer_config_json, chat_template, bos/eos of `text` from tokenizer.ggml.*. A
/// file without a vocabulary leaves them empty; an unknown vocabulary kind throws kUnsupported naming it,
/// more tokens than the model's `vocab_size` kDataCorrupt.
void read_gguf_tokenizer(const GgufFile& gguf, int vocab_size, TextAssets& text);

/// The reverse for one field: what tokenizer.ggml.pre is for a tokenizer.json's pre-tokenizer. Throws
/// kUnsupported naming `where` when there is no name for it.
std::string gguf_pre_tokenizer_name(const nlohmann::json& tokenizer, const std::string& where);

}  // namespace polylora
