#include "text/precompiled_normalizer.h"

#include "base/base64.h"
#include "base/error.h"
#include "text/graphemes.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr size_t kLongGrapheme = 6;  // bytes

Charsmap read_charsmap(const nlohmann::json& component) {
  const auto blob =
      base64_decode(json_required_string(component, "precompiled_charsmap", "normalizer Precompiled"));
  if (!blob) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: precompiled_charsmap is not Base64");
  return Charsmap(*blob);
}

bool is_ascii(char c) {
  return static_cast<uint8_t>(c) < 128;
}

}  // namespace

PrecompiledNormalizer::PrecompiledNormalizer(const nlohmann::json& component)
    : charsmap_(read_charsmap(component)) {
  for (uint8_t byte = 0; byte < 128; ++byte) {
    const char c = static_cast<char>(byte);
    stays_[byte] = c != '\r' && !charsmap_.find({&c, 1});
  }
}

std::string PrecompiledNormalizer::apply(std::string text) const {
  std::string out;
  out.reserve(text.size());
  const std::string_view whole = text;
  for (size_t pos = 0; pos < whole.size();) {
    const size_t plain = plain_prefix(whole.substr(pos));
    out += whole.substr(pos, plain);
    pos += plain;
    if (pos == whole.size()) break;
    const size_t end = grapheme_end(whole, pos);
    append_grapheme(whole.substr(pos, end - pos), out);
    check_normalized_size(out.size());
    pos = end;
  }
  return out;
}

size_t PrecompiledNormalizer::plain_prefix(std::string_view text) const {
  size_t end = 0;
  while (end < text.size() && is_ascii(text[end]) && stays_[static_cast<uint8_t>(text[end])] &&
         (end + 1 == text.size() || is_ascii(text[end + 1])))
    ++end;
  return end;
}

void PrecompiledNormalizer::append_grapheme(std::string_view grapheme, std::string& out) const {
  if (grapheme.size() < kLongGrapheme) {
    if (const auto replacement = charsmap_.find(grapheme)) {
      out += *replacement;
      return;
    }
  }
  for (size_t begin = 0, end = 0; begin < grapheme.size(); begin = end) {
    next_code_point(grapheme, end);
    const std::string_view character = grapheme.substr(begin, end - begin);
    out += charsmap_.find(character).value_or(character);
  }
}

}  // namespace polylora
