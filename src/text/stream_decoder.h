// Turns a stream of token ids into pieces of text that are always valid UTF-8.
#pragma once

#include <cstdint>
#include <string>

#include "text/token_decoder.h"

namespace polylora {

class Tokenizer;

/// One per output stream; not thread-safe. The tokenizer must outlive it. The pieces concatenated are what
/// Tokenizer::decode gives (a run of byte-fallback tokens with invalid UTF-8 apart, see DecodeMode).
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);

  /// The text that became certain; "" while a character is incomplete.
  std::string push(int32_t id);

  /// What is left at the end of the stream, incomplete sequences as U+FFFD. The stream then starts afresh.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  DecodeChain chain_;
};

}  // namespace polylora
