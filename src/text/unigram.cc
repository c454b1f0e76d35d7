#include "text/unigram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst piece, as in SentencePiece

/// Bytes of the character that begins there; words are valid UTF-8.
size_t character_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  if (byte < 0x80) return 1;
  return byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

struct Unigram::Step {
  double score = 0.0;
  size_t begin = SIZE_MAX;  // none yet
  int32_t id = -1;
};

struct Unigram::Path final : TokenModel::Scratch {
  std::vector<Step> steps;  // by end
  std::vector<Step> found;  // from the last piece back
};

Unigram::Unigram(const nlohmann::json& model) {
  const auto vocab = model.find("vocab");
  if (vocab == model.end() || !vocab->is_array() || vocab->empty())
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: a Unigram model's vocab is a list of [piece, score]");
  read_vocabulary(*vocab);
  const auto size = static_cast<int64_t>(scores_.size());
  unk_id_ = static_cast<int32_t>(json_int(model, "unk_id", -1, 0, size - 1));
  unk_score_ = *std::ranges::min_element(scores_) - kUnknownPenalty;
  if (json_flag(model, "byte_fallback", false)) byte_ids_ = byte_token_ids(vocab_);
  build_trie();
}

void Unigram::read_vocabulary(const nlohmann::json& list) {
  std::vector<std::pair<std::string, int32_t>> entries;
  for (const nlohmann::json& entry : list) {
    const bool is_pair =
        entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number();
    const double score = is_pair ? entry[1].get<double>() : NAN;
    if (!std::isfinite(score))
      fail(ErrorCode::kDataCorrupt, "tokenizer JSON: entry {} of a Unigram vocab is not [piece, score]",
           entries.size());
    entries.emplace_back(entry[0].get<std::string>(), static_cast<int32_t>(entries.size()));
    scores_.push_back(score);
  }
  vocab_ = Vocab(entries);
}

size_t Unigram::slot_of(uint32_t node, unsigned char byte) const {
  const uint64_t key = (uint64_t{node} << 8 | byte) * 0x9E3779B97F4A7C15u;
  size_t slot = (key >> 32) & (edges_.size() - 1);
  while (edges_[slot].from != kNoNode && (edges_[slot].from != node || edges_[slot].byte != byte))
    slot = (slot + 1) & (edges_.size() - 1);
  return slot;
}

/// Distinct beginnings of pieces, the pieces included: the trie's edges.
size_t Unigram::count_edges() const {
  std::vector<std::string_view> pieces;
  for (int32_t id = 0; id < vocab_.size(); ++id) pieces.push_back(vocab_.spelling(id));
  std::ranges::sort(pieces);
  size_t count = 0;
  std::string_view last;
  for (const std::string_view piece : pieces) {
    const auto shared = std::ranges::mismatch(piece, last).in1 - piece.begin();
    count += piece.size() - static_cast<size_t>(shared);
    last = piece;
  }
  return count;
}

void Unigram::build_trie() {
  edges_.resize(std::bit_ceil(2 * count_edges() + 1));  // half empty: searches are short, and one ends
  node_ids_ = {-1};
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    const std::string_view piece = vocab_.spelling(id);
    if (piece.empty()) continue;
    uint32_t node = 0;
    for (const char c : piece) {
      const auto byte = static_cast<unsigned char>(c);
      Edge& edge = edges_[slot_of(node, byte)];
      if (edge.from == kNoNode) {
        edge = {node, byte, static_cast<uint32_t>(node_ids_.size())};
        node_ids_.push_back(-1);
      }
      node = edge.to;
    }
    node_ids_[node] = id;
  }
}

std::unique_ptr<TokenModel::Scratch> Unigram::make_scratch() const {
  return std::make_unique<Path>();
}

/// Forwards over the characters. Of equally good ways to an end the one with the earliest begin stays.
void Unigram::search(std::string_view word, std::vector<Step>& steps) const {
  steps.assign(word.size() + 1, {});
  const auto offer = [&](size_t begin, size_t end, double score, int32_t id) {
    const double total = steps[begin].score + score;
    Step& step = steps[end];
    if (step.begin == SIZE_MAX || total > step.score) step = {total, begin, id};
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t character = std::min(character_length(word[begin]), word.size() - begin);
    bool has_character = false;
    uint32_t node = 0;
    for (size_t at = begin; at < word.size(); ++at) {
      const Edge& edge = edges_[slot_of(node, static_cast<unsigned char>(word[at]))];
      if (edge.from == kNoNode) break;
      node = edge.to;
      const int32_t id = node_ids_[node];
      if (id < 0) continue;
      offer(begin, at + 1, scores_[static_cast<size_t>(id)], id);
      has_character = has_character || at + 1 == begin + character;
    }
    if (!has_character) offer(begin, begin + character, unk_score_, -1);
    begin += character;
  }
}

void Unigram::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  auto& [steps, found] = static_cast<Path&>(scratch);
  search(word, steps);
  found.clear();
  for (size_t end = word.size(); end > 0; end = steps[end].begin) found.push_back(steps[end]);
  for (size_t i = found.size(); i-- > 0;) {
    const bool is_unknown = found[i].id < 0 || found[i].id == unk_id_;
    if (!is_unknown) {
      out.push_back(found[i].id);
      continue;
    }
    const size_t begin = found[i].begin;  // of adjacent unknown characters, which are one
    while (i > 0 && (found[i - 1].id < 0 || found[i - 1].id == unk_id_)) --i;
    const size_t end = i > 0 ? found[i - 1].begin : word.size();
    append_unknown(word.substr(begin, end - begin), out);
  }
}

void Unigram::append_unknown(std::string_view text, std::vector<int32_t>& out) const {
  const auto id_of = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (!byte_ids_.empty() && std::ranges::all_of(text, [&](char c) { return id_of(c) >= 0; })) {
    for (const char c : text) out.push_back(id_of(c));
  } else if (unk_id_ >= 0) {
    out.push_back(unk_id_);
  }
}

}  // namespace polylora
