// SentencePiece vocabularies rendered as Hugging Face tokenizer files, so that there is one
// tokenizer reader. What they become gives the tokens of what transformers' converters make of them
// (https://github.com/huggingface/transformers/blob/main/src/transformers/convert_slow_tokenizer.py).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polylora {

/// SentencePiece's types of pieces; GGUF's tokenizer.ggml.token_type has the same numbers.
enum class PieceType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePieces {
  struct Piece {
    std::string text;
    float score = 0.0f;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  bool unigram = false;       // scores are log-probabilities; else they rank merges
  bool byte_fallback = true;
  std::string charsmap;                            // the table that texts are normalised with; may be empty
  bool remove_extra_whitespaces = false;           // at the ends of a text, and all but one within
  bool add_dummy_prefix = true;                    // a space before every text
  bool escape_whitespaces = true;                  // pieces have U+2581 for a space
  int64_t unknown_id = 0, bos_id = 1, eos_id = 2;  // -1: none

  /// A piece's text; empty when there is no such id.
  std::string text_of(int64_t id) const;
};

/// tokenizer.json, with bos in front of texts where `add_bos`, eos behind them where `add_eos`.
nlohmann::ordered_json sentencepiece_tokenizer(const SentencePieces& vocabulary, bool add_bos, bool add_eos);

/// The merges that a BPE vocabulary implies: every way to cut a piece into two pieces, by falling score of
/// the piece; the ways of one piece by the ids of what they join.
std::vector<std::string> implied_merges(const SentencePieces& vocabulary);

/// Reads tokenizer.model, a ModelProto (https://github.com/google/sentencepiece, sentencepiece_model.proto).
/// Throws kDataCorrupt naming `where` for what is none, kUnsupported for kinds other than BPE and
/// Unigram, and for models that write spaces behind words. The table is checked where the tokenizer is made.
SentencePieces parse_sentencepiece_model(std::string_view bytes, const std::string& where);

}  // namespace polylora
