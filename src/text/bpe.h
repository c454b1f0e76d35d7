// Byte-pair encoding as HF tokenizers' BPE model: one word in, token ids out.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_model.h"

namespace polylora {

/// A word of n characters costs O(n log n); a long one is first cut wherever no merge can ever reach across,
/// which makes running text linear.
class Bpe final : public TokenModel {
 public:
  /// Throws kUnsupported for a model with dropout, kDataCorrupt for merges that do not fit the vocabulary.
  explicit Bpe(const TokenizerJson& file);

  const Vocab& vocab() const override { return vocab_; }
  std::unique_ptr<Scratch> make_scratch() const override;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const override;

 private:
  struct Symbols;  // what it keeps in a Scratch
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static uint64_t pair_of(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  }

  void read_options(const nlohmann::json& model);
  void build_merges(const std::vector<std::pair<std::string, std::string>>& merges);
  void build_joints(const std::vector<std::array<int32_t, 3>>& triples);
  void build_char_table();
  const Merge* find_merge(int32_t left, int32_t right) const;
  bool may_join(int32_t left, int32_t right) const;
  int32_t symbol_of(std::string_view word, size_t begin, size_t end) const;
  bool append_bytes(std::string_view character, std::vector<int32_t>& symbols) const;
  void split_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(Symbols& scratch, size_t begin, size_t end, std::vector<int32_t>& out) const;
  void merge_long(Symbols& scratch, size_t begin, size_t end, std::vector<int32_t>& out) const;

  Vocab vocab_;
  std::vector<Merge> merges_;     // open addressing, power of two
  std::vector<uint64_t> joints_;  // open addressing: (last symbol, first symbol) pairs some merge joins
  bool joints_usable_ = false;
  std::vector<int32_t> char_ids_;  // code point below 0x800 -> id or -1
  std::vector<int32_t> byte_ids_;  // byte -> id of <0xHH> or -1; empty without byte fallback
  std::string prefix_, suffix_;    // continuing_subword_prefix, end_of_word_suffix
  int32_t unk_id_ = -1;
  bool has_unk_ = false;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
};

}  // namespace polylora
