#include "text/vocab.h"

#include <bit>

#include "base/error.h"
#include "base/hash.h"

namespace polylora {
namespace {

uint64_t hash_of(std::string_view text) {
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

Vocab::Vocab(const std::vector<std::pair<std::string, int32_t>>& entries) {
  size_t bytes = 0;
  for (const auto& [token, id] : entries) bytes += token.size();
  if (bytes > (size_t{1} << 31)) fail(ErrorCode::kUnsupported, "tokenizer vocabulary of {} bytes", bytes);
  arena_.reserve(bytes);
  slots_.resize(std::bit_ceil(entries.size() * 2 + 2));
  for (const auto& entry : entries) {
    const std::string& token = entry.first;
    const int32_t id = entry.second;
    const uint64_t hash = hash_of(token);
    size_t i = hash & (slots_.size() - 1);
    const auto same = [&](const Slot& s) {
      return s.hash == static_cast<uint32_t>(hash >> 32) &&
             std::string_view(arena_).substr(s.offset, s.length) == token;
    };
    while (slots_[i].id >= 0 && !same(slots_[i])) i = (i + 1) & (slots_.size() - 1);
    const auto offset = static_cast<uint32_t>(arena_.size());
    arena_ += token;
    slots_[i] = {offset, static_cast<uint32_t>(token.size()), id, static_cast<uint32_t>(hash >> 32)};
    if (by_id_.size() <= static_cast<size_t>(id)) by_id_.resize(static_cast<size_t>(id) + 1);
    by_id_[static_cast<size_t>(id)] = {offset, static_cast<int32_t>(token.size())};
  }
}

int32_t Vocab::find(std::string_view token) const {
  if (slots_.empty()) return -1;
  const uint64_t hash = hash_of(token);
  for (size_t i = hash & (slots_.size() - 1); slots_[i].id >= 0; i = (i + 1) & (slots_.size() - 1)) {
    const Slot& s = slots_[i];
    if (s.hash == static_cast<uint32_t>(hash >> 32) &&
        std::string_view(arena_).substr(s.offset, s.length) == token) {
      return s.id;
    }
  }
  return -1;
}

bool Vocab::contains(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[static_cast<size_t>(id)].length >= 0;
}

std::string_view Vocab::spelling(int32_t id) const {
  if (!contains(id)) return {};
  const Span& span = by_id_[static_cast<size_t>(id)];
  return std::string_view(arena_).substr(span.offset, static_cast<size_t>(span.length));
}

}  // namespace polylora
