#include "text/normalizer.h"

#include <vector>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/precompiled_normalizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using nlohmann::json;

class Sequence final : public Normalizer {
 public:
  explicit Sequence(const json& component) {
    const auto it = component.find("normalizers");
    if (it == component.end() || !it->is_array()) {
      fail(ErrorCode::kDataCorrupt, "tokenizer JSON: normalizer Sequence has no 'normalizers'");
    }
    for (const json& part : *it) {
      if (auto step = make_normalizer(part)) steps_.push_back(std::move(step));
    }
  }
  std::string apply(std::string text) const override {
    for (const auto& step : steps_) text = step->apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(const json& c) : prefix_(json_required_string(c, "prepend", "normalizer Prepend")) {}
  std::string apply(std::string text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return text;
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  explicit Replace(const json& c)
      : pattern_(make_pattern(c, "normalizer Replace")),
        content_(json_required_string(c, "content", "normalizer Replace")) {}
  std::string apply(std::string text) const override { return replace_all(pattern_, text, content_); }

 private:
  Regex pattern_;
  std::string content_;
};

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  std::string apply(std::string text) const override { return normalize_unicode(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  std::string apply(std::string text) const override { return to_lower(std::string_view(text)); }
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  std::string apply(std::string text) const override {
    std::string out;
    append_byte_level(out, text);
    return out;
  }
};

class StripAccents final : public Normalizer {
 public:
  std::string apply(std::string text) const override {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
      const char32_t cp = next_code_point(text, pos);
      if (!is_unicode_mark(cp)) append_utf8(out, cp);
    }
    return out;
  }
};

class StripSpaces final : public Normalizer {
 public:
  explicit StripSpaces(const json& c)
      : left_(json_flag(c, "strip_left", true)), right_(json_flag(c, "strip_right", true)) {}
  std::string apply(std::string text) const override {
    size_t begin = 0, end = 0;
    bool seen = false;
    for (size_t pos = 0; pos < text.size();) {
      const size_t start = pos;
      if (is_unicode_space(next_code_point(text, pos))) continue;
      if (!seen) begin = start;
      seen = true;
      end = pos;
    }
    if (!left_) begin = 0;
    if (!right_) end = text.size();
    return begin < end ? text.substr(begin, end - begin) : std::string();
  }

 private:
  bool left_, right_;
};

/// Controls vanish, other marks of no extent become spaces: the cleaning of SentencePiece's "nmt" rules.
class Nmt final : public Normalizer {
 public:
  std::string apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const char32_t cp = next_code_point(text, pos);
      if (!is_dropped(cp)) append_utf8(out, is_blank(cp) ? U' ' : cp);
    }
    return out;
  }

 private:
  static bool is_dropped(char32_t cp) {
    return (cp >= 0x01 && cp <= 0x08) || cp == 0x0B || (cp >= 0x0E && cp <= 0x1F) || cp == 0x7F ||
           cp == 0x8F || cp == 0x9F;
  }
  static bool is_blank(char32_t cp) {
    return cp == 0x09 || cp == 0x0A || cp == 0x0C || cp == 0x0D || cp == 0x1680 ||
           (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 || cp == 0xFEFF ||
           cp == 0xFFFD;
  }
};

}  // namespace

void check_normalized_size(size_t bytes) {
  constexpr size_t kMax = size_t{1} << 30;
  if (bytes > kMax) fail(ErrorCode::kResourceExhausted, "normalised text exceeds 1 GiB");
}

Regex make_pattern(const json& component, std::string_view where) {
  const auto it = component.find("pattern");
  if (it != component.end() && it->is_object()) {
    if (it->contains("String")) return Regex::literal(json_required_string(*it, "String", where));
    if (it->contains("Regex")) return Regex(json_required_string(*it, "Regex", where));
  }
  fail(ErrorCode::kDataCorrupt, "tokenizer JSON: {} has no pattern with 'String' or 'Regex'", where);
}

std::string replace_all(const Regex& pattern, std::string_view text, std::string_view content) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t done = 0, from = 0;
  std::pair<size_t, size_t> match;
  while (from <= text.size() && pattern.find(text, from, match)) {
    out.append(text.substr(done, match.first - done)).append(content);
    check_normalized_size(out.size());
    done = match.second;
    from = match.second;
    if (match.first == match.second) {  // step over one character after an empty match
      if (from >= text.size()) break;
      next_code_point(text, from);
    }
  }
  out.append(text.substr(done));
  return out;
}

std::unique_ptr<Normalizer> make_normalizer(const json& component) {
  if (component.is_null()) return nullptr;
  const std::string type = component_type(component, "normalizer");
  if (type == "Sequence") return std::make_unique<Sequence>(component);
  if (type == "Prepend") return std::make_unique<Prepend>(component);
  if (type == "Replace") return std::make_unique<Replace>(component);
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Strip") return std::make_unique<StripSpaces>(component);
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Nmt") return std::make_unique<Nmt>();
  if (type == "Precompiled") return std::make_unique<PrecompiledNormalizer>(component);
  fail(ErrorCode::kUnsupported, "tokenizer normalizer '{}' is not supported", type);
}

}  // namespace polylora
