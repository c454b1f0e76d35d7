#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr size_t kShortWord = 48;  // below this, scanning for the best pair beats a heap
constexpr uint32_t kNoRank = UINT32_MAX;

uint64_t mix(uint64_t x) {  // Fibonacci hashing: the pair's two ids are dense small numbers
  x *= 0x9E3779B97F4A7C15u;
  return x ^ (x >> 32);
}

struct Candidate {
  uint32_t rank;
  uint32_t position;
  int32_t id;
  // Lowest rank first, then leftmost: std::priority_queue pops the greatest.
  bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : position > o.position; }
};

struct Node {
  int32_t id;
  int32_t previous, next;  // -1 at the ends
};

}  // namespace

struct Bpe::Symbols final : TokenModel::Scratch {
  std::vector<int32_t> symbols;
  std::vector<Node> nodes;
  std::vector<Candidate> heap;
};

std::unique_ptr<TokenModel::Scratch> Bpe::make_scratch() const {
  return std::make_unique<Symbols>();
}

Bpe::Bpe(const TokenizerJson& file) : vocab_(file.vocab) {
  read_options(file.rest.at("model"));
  build_char_table();
  build_merges(file.merges);
}

void Bpe::read_options(const nlohmann::json& model) {
  if (const auto it = model.find("dropout"); it != model.end() && !it->is_null() && *it != 0.0) {
    fail(ErrorCode::kUnsupported, "tokenizer BPE dropout is not supported");
  }
  prefix_ = json_string(model, "continuing_subword_prefix", "");
  suffix_ = json_string(model, "end_of_word_suffix", "");
  fuse_unk_ = json_flag(model, "fuse_unk", false);
  ignore_merges_ = json_flag(model, "ignore_merges", false);
  if (const std::string unk = json_string(model, "unk_token", ""); !unk.empty()) {
    unk_id_ = vocab_.find(unk);
    has_unk_ = unk_id_ >= 0;
  }
  if (!json_flag(model, "byte_fallback", false)) return;
  byte_ids_ = byte_token_ids(vocab_);
}

void Bpe::build_char_table() {
  char_ids_.assign(0x800, -1);
  std::string spelling;
  for (char32_t cp = 0; cp < 0x800; ++cp) {
    spelling.clear();
    append_utf8(spelling, cp);
    char_ids_[cp] = vocab_.find(spelling);
  }
}

void Bpe::build_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.resize(std::bit_ceil(merges.size() * 2 + 2));
  std::vector<std::array<int32_t, 3>> triples;
  triples.reserve(merges.size());
  std::string joined;
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined = left;
    joined += !prefix_.empty() && right.starts_with(prefix_) ? std::string_view(right).substr(prefix_.size())
                                                             : std::string_view(right);
    const int32_t a = vocab_.find(left), b = vocab_.find(right), c = vocab_.find(joined);
    if (a < 0 || b < 0 || c < 0) {
      fail(ErrorCode::kDataCorrupt,
           "tokenizer JSON: merge {} ('{}' + '{}') names a token outside the vocabulary", rank, left, right);
    }
    const uint64_t pair = pair_of(a, b);
    size_t i = mix(pair) & (merges_.size() - 1);
    while (merges_[i].pair != kNoPair && merges_[i].pair != pair) i = (i + 1) & (merges_.size() - 1);
    merges_[i] = {pair, rank, c};  // a repeated merge takes its last rank, as HF's map does
    triples.push_back({a, b, c});
  }
  build_joints(triples);
}

/// A merge that crosses a boundary between initial symbols x|y makes a token in which x and y are neighbours.
/// So where the pair (x, y) is inside no token that merges can make, text can be cut without changing the
/// result. Needs every token's first and last initial symbol, found from short tokens to long ones.
void Bpe::build_joints(const std::vector<std::array<int32_t, 3>>& triples) {
  if (!prefix_.empty() || !suffix_.empty()) return;
  const auto ambiguous = [&](int32_t id) {
    return id == unk_id_ || std::find(byte_ids_.begin(), byte_ids_.end(), id) != byte_ids_.end();
  };
  std::vector<std::array<int32_t, 3>> ordered(triples);
  const auto length = [&](const auto& t) { return vocab_.spelling(t[2]).size(); };
  std::stable_sort(ordered.begin(), ordered.end(),
                   [&](const auto& x, const auto& y) { return length(x) < length(y); });
  std::vector<int32_t> first(static_cast<size_t>(vocab_.size())), last(first.size());
  for (size_t i = 0; i < first.size(); ++i) first[i] = last[i] = static_cast<int32_t>(i);
  std::vector<uint8_t> unclear(first.size());
  for (size_t i = 0; i < first.size() && (has_unk_ || !byte_ids_.empty()); ++i) {
    const std::string_view s = vocab_.spelling(static_cast<int32_t>(i));
    unclear[i] = static_cast<int32_t>(i) == unk_id_ ||
                 (s.size() == 6 && s.starts_with("<0x") && ambiguous(static_cast<int32_t>(i)));
  }
  joints_.assign(std::bit_ceil(triples.size() * 2 + 2), kNoPair);
  for (const auto& [a, b, c] : ordered) {
    const auto ai = static_cast<size_t>(a), bi = static_cast<size_t>(b), ci = static_cast<size_t>(c);
    if (unclear[ai] || unclear[bi] || vocab_.spelling(a).empty() || vocab_.spelling(b).empty()) return;
    const uint64_t pair = pair_of(last[ai], first[bi]);
    size_t i = mix(pair) & (joints_.size() - 1);
    while (joints_[i] != kNoPair && joints_[i] != pair) i = (i + 1) & (joints_.size() - 1);
    joints_[i] = pair;
    first[ci] = first[ai];
    last[ci] = last[bi];
  }
  joints_usable_ = true;
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t i = mix(pair) & (merges_.size() - 1);; i = (i + 1) & (merges_.size() - 1)) {
    if (merges_[i].pair == pair) return &merges_[i];
    if (merges_[i].pair == kNoPair) return nullptr;
  }
}

bool Bpe::may_join(int32_t left, int32_t right) const {
  if (!joints_usable_) return true;
  const uint64_t pair = pair_of(left, right);
  for (size_t i = mix(pair) & (joints_.size() - 1); joints_[i] != kNoPair;
       i = (i + 1) & (joints_.size() - 1)) {
    if (joints_[i] == pair) return true;
  }
  return false;
}

int32_t Bpe::symbol_of(std::string_view word, size_t begin, size_t end) const {
  const std::string_view character = word.substr(begin, end - begin);
  if (prefix_.empty() && suffix_.empty()) {
    if (character.size() <= 2) {
      size_t pos = 0;
      return char_ids_[next_code_point(character, pos)];
    }
    return vocab_.find(character);
  }
  std::string spelling = begin > 0 ? prefix_ : std::string();
  spelling += character;
  if (end == word.size()) spelling += suffix_;
  return vocab_.find(spelling);
}

/// All bytes of the character have tokens, or none is appended.
bool Bpe::append_bytes(std::string_view character, std::vector<int32_t>& symbols) const {
  if (byte_ids_.empty()) return false;
  const auto id = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char c) { return id(c) >= 0; })) return false;
  for (const char c : character) symbols.push_back(id(c));
  return true;
}

void Bpe::split_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  bool unk_pending = false;
  const auto flush_unk = [&] {
    if (unk_pending) symbols.push_back(unk_id_);
    unk_pending = false;
  };
  for (size_t pos = 0; pos < word.size();) {
    const size_t begin = pos;
    next_code_point(word, pos);
    if (const int32_t id = symbol_of(word, begin, pos); id >= 0) {
      flush_unk();
      symbols.push_back(id);
      continue;
    }
    // A pending unknown token stays pending across byte tokens: HF's order, kept.
    if (append_bytes(word.substr(begin, pos - begin), symbols)) continue;
    if (!has_unk_) continue;
    if (!fuse_unk_) flush_unk();
    unk_pending = true;
  }
  flush_unk();
}

/// Repeatedly merges the best pair, found by scanning ranks: fastest for the few characters of a usual word.
void Bpe::merge_short(Symbols& scratch, size_t begin, size_t end, std::vector<int32_t>& out) const {
  int32_t* symbols = scratch.symbols.data() + begin;
  size_t n = end - begin;
  uint32_t ranks[kShortWord];
  int32_t merged[kShortWord];
  const auto rate = [&](size_t i) {
    const Merge* m = find_merge(symbols[i], symbols[i + 1]);
    ranks[i] = m == nullptr ? kNoRank : m->rank;
    merged[i] = m == nullptr ? -1 : m->id;
  };
  for (size_t i = 0; i + 1 < n; ++i) rate(i);
  while (n > 1) {
    const size_t best = static_cast<size_t>(std::min_element(ranks, ranks + n - 1) - ranks);
    if (ranks[best] == kNoRank) break;
    symbols[best] = merged[best];
    std::copy(symbols + best + 2, symbols + n, symbols + best + 1);
    std::copy(ranks + best + 1, ranks + n - 1, ranks + best);
    std::copy(merged + best + 1, merged + n - 1, merged + best);
    --n;
    if (best > 0) rate(best - 1);
    if (best + 1 < n) rate(best);
  }
  out.insert(out.end(), symbols, symbols + n);
}

/// The same result through a heap over a linked list.
void Bpe::merge_long(Symbols& scratch, size_t begin, size_t end, std::vector<int32_t>& out) const {
  auto& nodes = scratch.nodes;
  const auto n = static_cast<int32_t>(end - begin);
  nodes.resize(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) {
    nodes[static_cast<size_t>(i)] = {scratch.symbols[begin + static_cast<size_t>(i)], i - 1,
                                     i + 1 < n ? i + 1 : -1};
  }
  const auto node = [&](int32_t i) -> Node& { return nodes[static_cast<size_t>(i)]; };
  auto& heap = scratch.heap;
  heap.clear();
  const auto candidate = [&](int32_t i, bool sift) {
    if (i < 0 || node(i).next < 0) return;
    const Merge* m = find_merge(node(i).id, node(node(i).next).id);
    if (m == nullptr) return;
    heap.push_back({m->rank, static_cast<uint32_t>(i), m->id});
    if (sift) std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 0; i < n; ++i) candidate(i, false);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    const auto i = static_cast<int32_t>(top.position);
    if (node(i).id < 0 || node(i).next < 0) continue;
    const int32_t right = node(i).next;
    const Merge* m = find_merge(node(i).id, node(right).id);
    if (m == nullptr || m->id != top.id) continue;  // an older neighbourhood's entry
    node(i).id = top.id;
    node(i).next = node(right).next;
    if (node(i).next >= 0) node(node(i).next).previous = i;
    node(right).id = -1;
    candidate(node(i).previous, true);
    candidate(i, true);
  }
  for (int32_t i = 0; i >= 0; i = node(i).next) out.push_back(node(i).id);
}

void Bpe::encode_word(std::string_view word, Scratch& memory, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  auto& scratch = static_cast<Symbols&>(memory);
  if (ignore_merges_) {
    if (const int32_t id = vocab_.find(word); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  split_symbols(word, scratch.symbols);
  const auto& symbols = scratch.symbols;
  if (symbols.size() > INT32_MAX / 2)
    fail(ErrorCode::kResourceExhausted, "text of {} bytes is too long", word.size());
  for (size_t begin = 0; begin < symbols.size();) {
    size_t end = symbols.size();
    if (end - begin > kShortWord) {
      end = begin + 1;
      while (end < symbols.size() && may_join(symbols[end - 1], symbols[end])) ++end;
    }
    if (end - begin <= kShortWord) {
      merge_short(scratch, begin, end, out);
    } else {
      merge_long(scratch, begin, end, out);
    }
    begin = end;
  }
}

}  // namespace polylora
