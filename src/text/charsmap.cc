#include "text/charsmap.h"

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr size_t kUnitBytes = 4;
constexpr uint32_t kValueFlag = uint32_t{1} << 31;  // the unit is not a node but a key's value

// The bits of a node's unit.
constexpr bool ends_key(uint32_t unit) {
  return (unit >> 8 & 1u) != 0;
}
constexpr uint32_t label(uint32_t unit) {
  return unit & (kValueFlag | 0xFFu);
}
/// Xor-ed with a node's index: the index of its value, which xor-ed with a byte is the child for that byte.
constexpr size_t offset(uint32_t unit) {
  return size_t{unit >> 10} << ((unit & 1u << 9) >> 6);
}
constexpr size_t value(uint32_t unit) {
  return unit & ~kValueFlag;
}

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t out = 0;
  for (size_t i = kUnitBytes; i-- > 0;) out = out << 8 | static_cast<uint8_t>(bytes[at + i]);
  return out;
}

[[noreturn]] void bad(std::string_view what) {
  fail(ErrorCode::kDataCorrupt, "tokenizer: precompiled_charsmap {}", what);
}

bool begins_character(char byte) {
  return (static_cast<uint8_t>(byte) & 0xC0u) != 0x80u;
}

}  // namespace

Charsmap::Charsmap(std::string_view blob) {
  if (blob.size() < kUnitBytes) bad("is cut off");
  const size_t trie_bytes = read_u32(blob, 0);
  blob.remove_prefix(kUnitBytes);
  if (trie_bytes == 0 || trie_bytes % kUnitBytes != 0 || trie_bytes > blob.size())
    bad(fmt::format("has a trie of {} bytes in {}", trie_bytes, blob.size()));
  units_.reserve(trie_bytes / kUnitBytes);
  for (size_t at = 0; at < trie_bytes; at += kUnitBytes) units_.push_back(read_u32(blob, at));
  replacements_ = blob.substr(trie_bytes);
  if (!is_valid_utf8(replacements_)) bad("has replacements that are not UTF-8");
  check();
}

/// Looks at every unit once, so that find() need not look at values.
void Charsmap::check() const {
  for (size_t index = 0; index < units_.size(); ++index) {
    const uint32_t unit = units_[index];
    if ((unit & kValueFlag) != 0 || !ends_key(unit)) continue;
    const size_t leaf = index ^ offset(unit);
    const size_t at = leaf < units_.size() ? value(units_[leaf]) : SIZE_MAX;
    if (at > replacements_.size()) bad("leads outside itself");
    if (at < replacements_.size() && !begins_character(replacements_[at]))
      bad("has a replacement that begins inside a character");
  }
}

std::string_view Charsmap::replacement_at(size_t offset) const {
  const std::string_view rest = std::string_view(replacements_).substr(offset);
  return rest.substr(0, rest.find('\0'));
}

std::optional<std::string_view> Charsmap::find(std::string_view text) const {
  size_t node = offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    node ^= byte;
    if (byte == 0 || node >= units_.size() || label(units_[node]) != byte) return std::nullopt;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (ends_key(unit)) return replacement_at(value(units_[node]));
  }
  return std::nullopt;
}

}  // namespace polylora
