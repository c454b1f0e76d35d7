// Decoders of tokenizer.json as a chain of small stages that work on whole id lists and on streams alike.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// A stretch of text on its way through the chain. A token's text may be spread over several pieces.
struct DecodePiece {
  std::string text;
  bool starts_token = true;
};

/// Whole: the result is exactly HF's. Stream: text leaves a stage as soon as it is certain to be complete
/// UTF-8; the only difference is that a run of byte-fallback tokens is judged character by character.
enum class DecodeMode { kWhole, kStream };

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  /// A fresh stage of the same kind.
  virtual std::unique_ptr<DecodeStage> fresh(DecodeMode mode) const = 0;
  virtual void push(DecodePiece piece, std::vector<DecodePiece>& out) = 0;
  virtual void finish(std::vector<DecodePiece>& out) { (void)out; }
  /// The bytes one token contributes, wherever it stands.
  virtual std::string token_bytes(std::string token) const { return token; }
};

/// One run of a decoder: push token spellings, then finish once. Not thread-safe.
class DecodeChain {
 public:
  DecodeChain(const std::vector<std::unique_ptr<DecodeStage>>& stages, DecodeMode mode);
  void push(std::string_view token, std::string& out);
  void finish(std::string& out);

 private:
  std::vector<std::unique_ptr<DecodeStage>> stages_;
  std::vector<DecodePiece> pieces_, next_;
};

/// The stages of a component; a null component joins tokens with spaces. Throws kUnsupported naming a type it
/// does not know.
std::vector<std::unique_ptr<DecodeStage>> make_decode_stages(const nlohmann::json& component);

}  // namespace polylora
