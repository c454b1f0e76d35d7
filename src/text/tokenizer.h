// The tokenizer of a model, read from HF's tokenizer.json: a pipeline of
//   added tokens -> normalizer -> pre-tokenizer -> BPE or Unigram -> special tokens around      (text to ids)
//   token spellings -> decoder stages                                             (ids to text)
// each part built from its JSON component by its own file here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_decoder.h"

namespace polylora {

/// Immutable after construction; every const method is thread-safe.
class Tokenizer {
 public:
  /// `tokenizer_json`: the text of tokenizer.json. `tokenizer_config_json`: the text of
  /// tokenizer_config.json, or empty; it adds tokens, marks special ones and names bos and eos. Throws
  /// kDataCorrupt for broken files and kUnsupported, naming it, for a component that nothing here implements.
  static std::unique_ptr<Tokenizer> from_json(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json = {});
  ~Tokenizer();

  /// Ids of `text`; invalid UTF-8 counts as U+FFFD. With `add_special_tokens`, inside the template's special
  /// tokens.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;

  /// Text of `ids`, always valid UTF-8; unknown ids are skipped.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// Highest id + 1.
  int vocab_size() const;
  /// The id of a token's spelling, added tokens included.
  std::optional<int32_t> token_to_id(std::string_view token) const;
  /// The vocabulary's spelling ("Ġthe"); empty when the id is unknown.
  std::string token_string(int32_t id) const;
  /// The bytes this token contributes to a decoded text (may be part of a character); specials as their text.
  std::string token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;

  /// The strings that tokenizer_config.json names; absent when it names none.
  const std::optional<std::string>& bos_token() const;
  const std::optional<std::string>& eos_token() const;

  /// A fresh decoder run over this tokenizer's stages (StreamDecoder's engine).
  DecodeChain decode_chain(DecodeMode mode) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace polylora
