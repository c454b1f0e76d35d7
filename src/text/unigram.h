// Unigram tokens as HF tokenizers' Unigram model: the segmentation of a word whose pieces' scores, which are
// log-probabilities, have the largest sum.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/token_model.h"

namespace polylora {

/// A word of n bytes costs O(n · longest piece).
class Unigram final : public TokenModel {
 public:
  /// `model`: the object of tokenizer.json, vocab a list of [piece, score]. Throws kDataCorrupt for another
  /// shape, scores that are not finite, and an unk_id outside the vocabulary.
  explicit Unigram(const nlohmann::json& model);

  const Vocab& vocab() const override { return vocab_; }
  std::unique_ptr<Scratch> make_scratch() const override;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const override;

 private:
  /// The best segmentation of a word's first bytes ends with this piece.
  struct Step;
  struct Path;

  void read_vocabulary(const nlohmann::json& list);
  size_t count_edges() const;
  void build_trie();
  size_t slot_of(uint32_t node, unsigned char byte) const;
  void search(std::string_view word, std::vector<Step>& steps) const;
  void append_unknown(std::string_view text, std::vector<int32_t>& out) const;

  static constexpr uint32_t kNoNode = UINT32_MAX;
  struct Edge {
    uint32_t from = kNoNode;
    unsigned char byte = 0;
    uint32_t to = 0;
  };

  Vocab vocab_;
  std::vector<double> scores_;     // by id
  std::vector<Edge> edges_;        // a trie of the pieces; open addressing, power of two
  std::vector<int32_t> node_ids_;  // the piece that ends at a node, or -1
  std::vector<int32_t> byte_ids_;  // empty without byte fallback
  int32_t unk_id_ = -1;
  double unk_score_ = 0.0;
};

}  // namespace polylora
