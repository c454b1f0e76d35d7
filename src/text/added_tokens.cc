#include "text/added_tokens.h"

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr size_t kMaxSpelling = 4096;  // bounds the search: at most this many steps per character

char32_t code_point_before(std::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80) --pos;
  return next_code_point(text, pos);
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word_char(code_point_before(text.substr(0, begin)))) return false;
  return end == text.size() || !is_word_char(next_code_point(text, end));
}

size_t spaces_before(std::string_view text, size_t end, size_t limit) {
  while (end > limit) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t pos = begin;
    if (begin < limit || !is_unicode_space(next_code_point(text, pos))) break;
    end = begin;
  }
  return end;
}

size_t spaces_after(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t pos = begin;
    if (!is_unicode_space(next_code_point(text, pos))) break;
    begin = pos;
  }
  return begin;
}

}  // namespace

void TokenMatcher::add(std::string_view spelling, const AddedToken* token) {
  if (spelling.empty()) return;
  uint32_t node = 0;
  for (const char c : spelling) {
    const auto [it, fresh] = nodes_[node].next.try_emplace(static_cast<uint8_t>(c), nodes_.size());
    const uint32_t next = it->second;
    if (fresh) nodes_.emplace_back();
    node = next;
  }
  if (nodes_[node].token == nullptr) nodes_[node].token = token;
  starts_[static_cast<uint8_t>(spelling[0])] = true;
}

const AddedToken* TokenMatcher::longest(std::string_view text, size_t begin, size_t& end) const {
  const AddedToken* found = nullptr;
  uint32_t node = 0;
  for (size_t pos = begin; pos < text.size(); ++pos) {
    const auto it = nodes_[node].next.find(static_cast<uint8_t>(text[pos]));
    if (it == nodes_[node].next.end()) break;
    node = it->second;
    if (nodes_[node].token == nullptr) continue;
    found = nodes_[node].token;
    end = pos + 1;
  }
  return found;
}

std::vector<TextSpan> TokenMatcher::cut(std::string_view text) const {
  std::vector<TextSpan> out;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size() && !empty();) {
    if (!starts_[static_cast<uint8_t>(text[pos])]) {
      ++pos;
      continue;
    }
    size_t begin = pos, end = 0;
    const AddedToken* token = longest(text, pos, end);
    if (token == nullptr) {
      ++pos;
      continue;
    }
    pos = end;  // a match that single_word refuses is skipped whole, as HF's non-overlapping search does
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = spaces_before(text, begin, done);
    if (token->rstrip) end = spaces_after(text, end);
    if (begin < done) begin = done;  // rstrip of the previous token took this one's start
    if (end <= done) continue;
    if (begin > done) out.push_back({done, begin, -1});
    out.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) out.push_back({done, text.size(), -1});
  return out;
}

void AddedTokens::add(AddedToken token) {
  if (token.content.empty()) return;
  if (token.content.size() > kMaxSpelling) {
    fail(ErrorCode::kUnsupported, "tokenizer JSON: added token {} has {} bytes", token.id,
         token.content.size());
  }
  if (token.id < 0 || token.id >= (1 << 24)) {
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON: added token '{}' has id {}", token.content, token.id);
  }
  if (const auto old = ids_.find(token.content); old != ids_.end() && old->second != token.id) {
    tokens_.erase(old->second);
  }
  if (const auto old = tokens_.find(token.id); old != tokens_.end()) ids_.erase(old->second.content);
  ids_[token.content] = token.id;
  tokens_[token.id] = std::move(token);
}

void AddedTokens::mark_special(std::string_view content) {
  if (const auto it = ids_.find(std::string(content)); it != ids_.end()) tokens_[it->second].special = true;
}

void AddedTokens::build(const Normalizer* normalizer) {
  for (const auto& [id, token] : tokens_) {
    if (!token.normalized) {
      raw_.add(token.content, &token);
    } else {
      normalized_.add(normalizer == nullptr ? token.content : normalizer->apply(token.content), &token);
    }
  }
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  const auto it = ids_.find(std::string(content));
  return it == ids_.end() ? nullptr : &tokens_.at(it->second);
}

}  // namespace polylora
