#include "io/sentencepiece.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "base/base64.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSpace = "▁";  // U+2581 stands for it in pieces

bool begins_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0u) != 0x80u;
}

Json replace(std::string_view kind, std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{kind, from}}}, {"content", to}};
}

Json normalizer(const SentencePieces& vocabulary) {
  const std::string_view space = vocabulary.escape_whitespaces ? kSpace : " ";
  Json steps = Json::array();
  if (!vocabulary.charsmap.empty())
    steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", base64_encode(vocabulary.charsmap)}});
  if (vocabulary.remove_extra_whitespaces) {
    steps.push_back(replace("Regex", " {2,}", " "));
    steps.push_back(replace("Regex", R"(\A | \z)", ""));
  }
  if (vocabulary.add_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", space}});
  if (vocabulary.escape_whitespaces) steps.push_back(replace("String", " ", kSpace));
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

Json decoder(bool add_dummy_prefix) {
  Json steps = Json::array({replace("String", kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (add_dummy_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

Json special(std::string_view token) {
  return {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
}

Json post_processor(const SentencePieces& vocabulary, bool add_bos, bool add_eos) {
  const std::string bos = add_bos ? vocabulary.text_of(vocabulary.bos_id) : "";
  const std::string eos = add_eos ? vocabulary.text_of(vocabulary.eos_id) : "";
  if (bos.empty() && eos.empty()) return nullptr;
  Json steps = Json::array(), tokens = Json::object();
  const auto add = [&](const std::string& token, int64_t id) {
    if (token.empty()) return;
    steps.push_back(special(token));
    tokens[token] = {{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
  };
  add(bos, vocabulary.bos_id);
  steps.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(eos, vocabulary.eos_id);
  return {{"type", "TemplateProcessing"},
          {"single", steps},
          {"pair", steps},
          {"special_tokens", std::move(tokens)}};
}

Json added_tokens(const SentencePieces& vocabulary) {
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const SentencePieces::Piece& piece = vocabulary.pieces[id];
    const bool is_special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    if (!is_special && piece.type != PieceType::kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", piece.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", is_special}});
  }
  return added;
}

Json unigram_model(const SentencePieces& vocabulary) {
  Json vocab = Json::array();
  for (const SentencePieces::Piece& piece : vocabulary.pieces) vocab.push_back({piece.text, piece.score});
  return {{"type", "Unigram"},
          {"unk_id", vocabulary.unknown_id < 0 ? Json(nullptr) : Json(vocabulary.unknown_id)},
          {"vocab", std::move(vocab)},
          {"byte_fallback", vocabulary.byte_fallback}};
}

Json bpe_model(const SentencePieces& vocabulary) {
  Json vocab = Json::object();
  auto& members = vocab.get_ref<Json::object_t&>();  // ordered_json looks keys up linearly; append instead
  members.reserve(vocabulary.pieces.size());
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id)
    members.emplace_back(vocabulary.pieces[id].text, id);
  const std::string unknown = vocabulary.text_of(vocabulary.unknown_id);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown.empty() ? Json(nullptr) : Json(unknown)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", vocabulary.byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", implied_merges(vocabulary)}};
}

struct Merge {
  float score;
  size_t left_id, right_id;
  std::string_view left, right;
};

}  // namespace

std::string SentencePieces::text_of(int64_t id) const {
  const bool known = id >= 0 && id < static_cast<int64_t>(pieces.size());
  return known ? pieces[static_cast<size_t>(id)].text : std::string();
}

std::vector<std::string> implied_merges(const SentencePieces& vocabulary) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) ids[vocabulary.pieces[id].text] = id;
  std::vector<Merge> merges;
  for (const SentencePieces::Piece& piece : vocabulary.pieces) {
    const std::string_view text = piece.text;
    const size_t first = merges.size();
    const float score = std::isnan(piece.score) ? -std::numeric_limits<float>::infinity() : piece.score;
    for (size_t at = 1; at < text.size(); ++at) {
      if (!begins_character(text[at])) continue;
      const auto left = ids.find(text.substr(0, at)), right = ids.find(text.substr(at));
      if (left != ids.end() && right != ids.end())
        merges.push_back({score, left->second, right->second, left->first, right->first});
    }
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(),
              [](const Merge& x, const Merge& y) {
                return std::tie(x.left_id, x.right_id) < std::tie(y.left_id, y.right_id);
              });
  }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const Merge& x, const Merge& y) { return x.score > y.score; });
  std::vector<std::string> lines;
  lines.reserve(merges.size());
  for (const Merge& merge : merges) lines.push_back(std::string(merge.left) + ' ' + std::string(merge.right));
  return lines;
}

Json sentencepiece_tokenizer(const SentencePieces& vocabulary, bool add_bos, bool add_eos) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(vocabulary)},
          {"normalizer", normalizer(vocabulary)},
          {"pre_tokenizer", nullptr},
          {"post_processor", post_processor(vocabulary, add_bos, add_eos)},
          {"decoder", decoder(vocabulary.add_dummy_prefix)},
          {"model", vocabulary.unigram ? unigram_model(vocabulary) : bpe_model(vocabulary)}};
}

}  // namespace polylora
