// A model's Jinja chat template taken apart into a ChatFormat, for what needs fixed strings: Ollama's
// Modelfile. (Training renders the template itself: jinja_encoder.cc.)
#pragma once

#include <string>

#include "text/tokenizer.h"
#include "tune/data/chat_format.h"
#include "tune/data/turn_encoder.h"

namespace polylora {

/// Renders placeholder conversations and reads off what stands around them. Tried out on a conversation of
/// two turns: kUnsupported when the strings found do not make the template's own text (one that shows the
/// date, or rewrites earlier answers).
ChatFormat derive_chat_format(const Tokenizer& tokenizer, const ModelText& model);

/// The format named `template_name`; for an empty name the model's own, or "empty" when it has no template.
ChatFormat chat_format_of(const std::string& template_name, const Tokenizer& tokenizer,
                          const ModelText& model);

}  // namespace polylora
