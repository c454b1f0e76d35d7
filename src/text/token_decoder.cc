#include "text/token_decoder.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using nlohmann::json;
using Pieces = std::vector<DecodePiece>;

/// Without a decoder HF joins the tokens with spaces.
class JoinWithSpaces final : public DecodeStage {
 public:
  std::unique_ptr<DecodeStage> fresh(DecodeMode) const override { return std::make_unique<JoinWithSpaces>(); }
  void push(DecodePiece piece, Pieces& out) override {
    if (!first_ && piece.starts_token) piece.text.insert(piece.text.begin(), ' ');
    first_ = false;
    out.push_back(std::move(piece));
  }

 private:
  bool first_ = true;
};

class ByteLevelStage final : public DecodeStage {
 public:
  std::unique_ptr<DecodeStage> fresh(DecodeMode) const override { return std::make_unique<ByteLevelStage>(); }

  void push(DecodePiece piece, Pieces& out) override {
    pending_ += byte_level_to_bytes(piece.text);
    std::string text;
    std::string_view rest = pending_;
    while (!rest.empty()) {
      const size_t good = valid_utf8_prefix(rest);
      text.append(rest.substr(0, good));
      rest.remove_prefix(good);
      if (rest.empty()) break;
      const Utf8Step step = utf8_step(rest);
      if (step.incomplete) break;
      append_utf8(text, 0xFFFD);
      rest.remove_prefix(step.length);
    }
    pending_.erase(0, pending_.size() - rest.size());
    emit(std::move(text), out);
  }

  void finish(Pieces& out) override {
    emit(to_valid_utf8(pending_), out);
    pending_.clear();
  }

  std::string token_bytes(std::string token) const override { return byte_level_to_bytes(token); }

 private:
  void emit(std::string text, Pieces& out) {
    if (text.empty()) return;
    out.push_back({std::move(text), first_});
    first_ = false;
  }

  std::string pending_;  // the front of an incomplete character
  bool first_ = true;
};

/// "<0x0A>" tokens are bytes. A run of them is text when it is valid UTF-8, else one U+FFFD per byte.
class ByteFallbackStage final : public DecodeStage {
 public:
  explicit ByteFallbackStage(DecodeMode mode) : mode_(mode) {}
  std::unique_ptr<DecodeStage> fresh(DecodeMode mode) const override {
    return std::make_unique<ByteFallbackStage>(mode);
  }

  void push(DecodePiece piece, Pieces& out) override {
    const int byte = byte_of(piece.text);
    if (byte < 0) {
      finish(out);
      out.push_back(std::move(piece));
      return;
    }
    run_ += static_cast<char>(byte);
    if (mode_ == DecodeMode::kStream) release(out);
  }

  void finish(Pieces& out) override {
    if (run_.empty()) return;
    emit(is_valid_utf8(run_) ? run_ : replacements(run_.size()), out);
    run_.clear();
  }

  std::string token_bytes(std::string token) const override {
    const int byte = byte_of(token);
    return byte < 0 ? token : std::string(1, static_cast<char>(byte));
  }

 private:
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    int value = 0;
    for (const char c : token.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }

  static std::string replacements(size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) append_utf8(out, 0xFFFD);
    return out;
  }

  void release(Pieces& out) {
    while (!run_.empty()) {
      const Utf8Step step = utf8_step(run_);
      if (step.incomplete) return;
      emit(step.valid ? run_.substr(0, step.length) : replacements(step.length), out);
      run_.erase(0, step.length);
    }
  }

  void emit(std::string text, Pieces& out) { out.push_back({std::move(text), true}); }

  std::string run_;
  DecodeMode mode_;
};

class FuseStage final : public DecodeStage {
 public:
  explicit FuseStage(DecodeMode mode) : mode_(mode) {}
  std::unique_ptr<DecodeStage> fresh(DecodeMode mode) const override {
    return std::make_unique<FuseStage>(mode);
  }

  void push(DecodePiece piece, Pieces& out) override {
    if (mode_ == DecodeMode::kWhole) {
      fused_ += piece.text;
      return;
    }
    if (piece.text.empty()) return;
    piece.starts_token = first_;
    first_ = false;
    out.push_back(std::move(piece));
  }

  void finish(Pieces& out) override {
    if (mode_ == DecodeMode::kWhole) out.push_back({std::move(fused_), true});
  }

 private:
  std::string fused_;
  bool first_ = true;
  DecodeMode mode_;
};

/// Removes up to `start` leading and `stop` trailing occurrences of one character from every token.
class StripStage final : public DecodeStage {
 public:
  StripStage(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  std::unique_ptr<DecodeStage> fresh(DecodeMode) const override {
    return std::make_unique<StripStage>(content_, start_, stop_);
  }

  void push(DecodePiece piece, Pieces& out) override {
    if (piece.starts_token) {
      held_ = 0;  // the previous token ended: its trailing characters go
      leading_ = start_;
    }
    std::string_view rest = piece.text;
    while (leading_ > 0 && rest.starts_with(content_)) {
      rest.remove_prefix(content_.size());
      --leading_;
    }
    if (rest.empty()) return;
    leading_ = 0;
    std::string text;
    size_t trailing = 0;
    std::string_view body = rest;
    while (trailing < stop_ && body.ends_with(content_)) {
      body.remove_suffix(content_.size());
      ++trailing;
    }
    const size_t held_before = held_;
    if (body.empty()) {  // nothing but the character: keep the last `stop` of old and new back
      const size_t total = held_before + trailing;
      held_ = std::min(total, stop_);
      repeat(text, total - held_);
    } else {
      repeat(text, held_before);
      text += body;
      held_ = trailing;
    }
    if (!text.empty()) out.push_back({std::move(text), piece.starts_token});
  }

 private:
  void repeat(std::string& text, size_t count) const {
    for (size_t i = 0; i < count; ++i) text += content_;
  }

  std::string content_;
  size_t start_, stop_;
  size_t leading_ = 0;  // how many may still be removed at the front of this token
  size_t held_ = 0;     // trailing ones held back until the token is known to go on
};

class ReplaceStage final : public DecodeStage {
 public:
  ReplaceStage(std::shared_ptr<const Regex> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::unique_ptr<DecodeStage> fresh(DecodeMode) const override {
    return std::make_unique<ReplaceStage>(pattern_, content_);
  }
  void push(DecodePiece piece, Pieces& out) override {
    piece.text = replace_all(*pattern_, piece.text, content_);
    out.push_back(std::move(piece));
  }
  std::string token_bytes(std::string token) const override {
    return is_valid_utf8(token) ? replace_all(*pattern_, token, content_) : token;
  }

 private:
  std::shared_ptr<const Regex> pattern_;
  std::string content_;
};

/// Metaspace's decoder: the replacement is a space, or nothing in the first token when encoding prepends one.
class MetaspaceStage final : public DecodeStage {
 public:
  MetaspaceStage(std::string replacement, bool drop_first)
      : replacement_(std::move(replacement)), drop_first_(drop_first) {}
  std::unique_ptr<DecodeStage> fresh(DecodeMode) const override {
    return std::make_unique<MetaspaceStage>(replacement_, drop_first_);
  }
  void push(DecodePiece piece, Pieces& out) override {
    piece.text = convert(piece.text, first_ && drop_first_ ? "" : " ");
    first_ = false;
    out.push_back(std::move(piece));
  }
  std::string token_bytes(std::string token) const override { return convert(token, " "); }

 private:
  std::string convert(std::string_view text, std::string_view by) const {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
      if (text.substr(pos).starts_with(replacement_)) {
        out += by;
        pos += replacement_.size();
      } else {
        out += text[pos++];
      }
    }
    return out;
  }

  std::string replacement_;
  bool drop_first_;
  bool first_ = true;
};

void append_stages(const json& component, std::vector<std::unique_ptr<DecodeStage>>& out) {
  const std::string type = component_type(component, "decoder");
  if (type == "Sequence") {
    const auto parts = component.find("decoders");
    if (parts == component.end() || !parts->is_array()) {
      fail(ErrorCode::kDataCorrupt, "tokenizer JSON: decoder Sequence has no 'decoders'");
    }
    for (const json& part : *parts) append_stages(part, out);
  } else if (type == "ByteLevel") {
    out.push_back(std::make_unique<ByteLevelStage>());
  } else if (type == "ByteFallback") {
    out.push_back(std::make_unique<ByteFallbackStage>(DecodeMode::kWhole));
  } else if (type == "Fuse") {
    out.push_back(std::make_unique<FuseStage>(DecodeMode::kWhole));
  } else if (type == "Strip") {
    const std::string content = json_required_string(component, "content", "decoder Strip");
    if (utf8_length(content) != 1) {
      fail(ErrorCode::kDataCorrupt, "tokenizer decoder Strip: content '{}' must be one character", content);
    }
    out.push_back(std::make_unique<StripStage>(
        content, static_cast<size_t>(json_int(component, "start", 0, 0, 1 << 20)),
        static_cast<size_t>(json_int(component, "stop", 0, 0, 1 << 20))));
  } else if (type == "Replace") {
    out.push_back(std::make_unique<ReplaceStage>(
        std::make_shared<const Regex>(make_pattern(component, "decoder Replace")),
        json_required_string(component, "content", "decoder Replace")));
  } else if (type == "Metaspace") {
    const bool legacy = json_flag(component, "add_prefix_space", true);
    const std::string scheme = json_string(component, "prepend_scheme", legacy ? "always" : "never");
    const std::string replacement = json_string(component, "replacement", "\u2581");
    if (replacement.empty()) fail(ErrorCode::kDataCorrupt, "tokenizer decoder Metaspace: empty replacement");
    out.push_back(std::make_unique<MetaspaceStage>(replacement, scheme != "never"));
  } else {
    fail(ErrorCode::kUnsupported, "tokenizer decoder '{}' is not supported", type);
  }
}

}  // namespace

DecodeChain::DecodeChain(const std::vector<std::unique_ptr<DecodeStage>>& stages, DecodeMode mode) {
  for (const auto& stage : stages) stages_.push_back(stage->fresh(mode));
}

void DecodeChain::push(std::string_view token, std::string& out) {
  pieces_.clear();
  pieces_.push_back({std::string(token), true});
  for (const auto& stage : stages_) {
    next_.clear();
    for (DecodePiece& piece : pieces_) stage->push(std::move(piece), next_);
    std::swap(pieces_, next_);
  }
  for (const DecodePiece& piece : pieces_) out += piece.text;
}

void DecodeChain::finish(std::string& out) {
  pieces_.clear();
  for (const auto& stage : stages_) {
    next_.clear();
    for (DecodePiece& piece : pieces_) stage->push(std::move(piece), next_);
    stage->finish(next_);
    std::swap(pieces_, next_);
  }
  for (const DecodePiece& piece : pieces_) out += piece.text;
}

std::vector<std::unique_ptr<DecodeStage>> make_decode_stages(const json& component) {
  std::vector<std::unique_ptr<DecodeStage>> out;
  if (component.is_null()) {
    out.push_back(std::make_unique<JoinWithSpaces>());
  } else {
    append_stages(component, out);
  }
  return out;
}

}  // namespace polylora
