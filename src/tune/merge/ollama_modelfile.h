// Ollama's Modelfile for an exported model: its prompt format as a Go template, and where answers stop.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "tune/data/chat_format.h"
#include "tune/data/turn_encoder.h"

namespace polylora {

/// The tokens that end an answer: the eos token and the stop words, as far as the vocabulary has them, by id.
std::vector<std::string> stop_tokens(const ChatFormat& format, const Tokenizer& tokenizer,
                                     const ModelText& model);

/// FROM ., TEMPLATE, SYSTEM (when there is a default), PARAMETER stop for each stop token and
/// PARAMETER num_ctx 4096. Throws kUnsupported for a format whose strings a Modelfile cannot quote.
std::string ollama_modelfile(const ChatFormat& format, const Tokenizer& tokenizer, const ModelText& model);

}  // namespace polylora
