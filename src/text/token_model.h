// The "model" of a tokenizer.json: one word in, token ids out.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "text/tokenizer_json.h"
#include "text/vocab.h"

namespace polylora {

/// Immutable after construction; encode_word() is thread-safe.
class TokenModel {
 public:
  /// Reusable memory of one caller.
  class Scratch {
   public:
    virtual ~Scratch() = default;
  };

  virtual ~TokenModel() = default;
  virtual const Vocab& vocab() const = 0;
  virtual std::unique_ptr<Scratch> make_scratch() const = 0;

  /// Appends the ids of `word` (valid UTF-8). A character the vocabulary lacks becomes its byte tokens, the
  /// unknown token, or nothing, as the model says. `scratch` is one of make_scratch().
  virtual void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const = 0;
};

/// BPE or Unigram, as model.type says. Throws kUnsupported for other kinds, what their constructors throw.
std::unique_ptr<TokenModel> make_token_model(const TokenizerJson& file);

/// The tokens <0x00> … <0xFF> by byte, -1 where the vocabulary lacks one.
std::vector<int32_t> byte_token_ids(const Vocab& vocab);

}  // namespace polylora
