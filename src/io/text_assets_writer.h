// The tokenizer files of a checkpoint, written beside what is made from it: adapters, checkpoints of a run,
// merged models.
#pragma once

#include <filesystem>

#include "io/checkpoint.h"

namespace polylora {

/// Copies the tokenizer files of an HF folder into `folder` (which exists), byte for byte; those of a GGUF
/// file are rendered: tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja,
/// as transformers' AutoTokenizer reads them. A checkpoint without a tokenizer writes none. Each file is
/// written atomically; throws kIo naming the file.
void write_tokenizer_files(const std::filesystem::path& folder, const Checkpoint& checkpoint);

}  // namespace polylora
