// The normalizer "Precompiled" of tokenizer.json: SentencePiece's table of replacements, as HF applies it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "text/charsmap.h"
#include "text/normalizer.h"

namespace polylora {

/// The table replaces a whole grapheme where that is short and begins with a key, and what stands behind the
/// key vanishes with it; otherwise it replaces each character. (SentencePiece itself replaces the longest
/// key, but what users compare with are HF's ids.) utf8proc's graphemes are of an older Unicode than HF's,
/// which makes no difference to the tables that SentencePiece ships. Linear in text and result.
class PrecompiledNormalizer final : public Normalizer {
 public:
  /// Throws kDataCorrupt where "precompiled_charsmap" is not the Base64 of a Charsmap.
  explicit PrecompiledNormalizer(const nlohmann::json& component);
  std::string apply(std::string text) const override;

 private:
  size_t plain_prefix(std::string_view text) const;
  void append_grapheme(std::string_view grapheme, std::string& out) const;

  Charsmap charsmap_;
  bool stays_[128];  // ASCII that the table leaves alone and that is a grapheme wherever ASCII follows it
};

}  // namespace polylora
