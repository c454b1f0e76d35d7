#include "text/pre_tokenizer.h"

#include <functional>
#include <utility>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/regex.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using nlohmann::json;

/// What becomes of the matches of a splitting pattern.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior parse_behavior(const std::string& name) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail(ErrorCode::kUnsupported, "tokenizer split behavior '{}' is not supported", name);
}

/// A stretch of one word, matched or between matches.
struct Segment {
  size_t begin, end;
  bool match;
};

/// Appends to `out` the pieces of `word` that remain of its segments. Empty pieces vanish.
void emit_segments(const std::vector<Segment>& segments, Behavior behavior, const Words::Range& word,
                   std::vector<Words::Range>& out) {
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end) out.push_back({begin, end, word.at_text_start && begin == word.begin});
  };
  for (size_t i = 0; i < segments.size();) {
    const Segment& s = segments[i];
    size_t last = i;  // segments i..last form one piece
    const auto next_match = [&](size_t k) { return k + 1 < segments.size() && segments[k + 1].match; };
    switch (behavior) {
      case Behavior::kIsolated:
        break;
      case Behavior::kRemoved:
        if (s.match) {
          ++i;
          continue;
        }
        break;
      case Behavior::kContiguous:
        while (last + 1 < segments.size() && segments[last + 1].match == s.match) ++last;
        break;
      case Behavior::kMergedWithPrevious:  // one match joins the text before it; a match after a match stands
                                           // alone
        if (!s.match && next_match(i)) ++last;
        break;
      case Behavior::kMergedWithNext:  // of several matches in a row only the last joins the text after it
        if (s.match && i + 1 < segments.size() && !segments[i + 1].match) ++last;
        break;
    }
    emit(s.begin, segments[last].end);
    i = last + 1;
  }
}

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(const json& component) {
    const auto it = component.find("pretokenizers");
    if (it == component.end() || !it->is_array()) {
      fail(ErrorCode::kDataCorrupt, "tokenizer JSON: pre_tokenizer Sequence has no 'pretokenizers'");
    }
    for (const json& part : *it) {
      if (auto step = make_pre_tokenizer(part)) steps_.push_back(std::move(step));
    }
  }
  void apply(Words& words) const override {
    for (const auto& step : steps_) step->apply(words);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

/// Cuts at the matches of a regex.
class Split final : public PreTokenizer {
 public:
  Split(Regex pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(Words& words) const override {
    std::vector<Words::Range> out;
    out.reserve(words.text.size() / 4 + words.ranges.size());
    std::vector<Segment> segments;
    for (size_t i = 0; i < words.ranges.size(); ++i) {
      segments.clear();
      find_segments(words[i], words.ranges[i].begin, segments);
      emit_segments(segments, behavior_, words.ranges[i], out);
    }
    words.ranges = std::move(out);
  }

 private:
  /// The pattern sees each word alone, so that lookarounds and ^ $ do not reach into its neighbours.
  void find_segments(std::string_view word, size_t offset, std::vector<Segment>& out) const {
    size_t done = 0, from = 0;
    std::pair<size_t, size_t> match;
    while (from < word.size() && pattern_.find(word, from, match)) {
      if (match.first > done) out.push_back({offset + done, offset + match.first, invert_});
      out.push_back({offset + match.first, offset + match.second, !invert_});
      done = from = match.second;
      if (match.first == match.second && from < word.size()) next_code_point(word, from);
    }
    if (done < word.size()) out.push_back({offset + done, offset + word.size(), invert_});
  }

  Regex pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Cuts at characters with a property.
class SplitChars final : public PreTokenizer {
 public:
  SplitChars(std::function<bool(char32_t)> is_match, Behavior behavior)
      : is_match_(std::move(is_match)), behavior_(behavior) {
    for (char32_t c = 0; c < 128; ++c) ascii_[c] = is_match_(c);
  }

  void apply(Words& words) const override {
    std::vector<Words::Range> out;
    out.reserve(words.ranges.size() + 16);
    std::vector<Segment> segments;
    for (const Words::Range& range : words.ranges) {
      segments.clear();
      size_t done = range.begin;
      for (size_t pos = range.begin; pos < range.end;) {
        const size_t start = pos;
        const char32_t cp = next_code_point(words.text, pos);
        if (cp < 128 ? !ascii_[cp] : !is_match_(cp)) continue;
        if (start > done) segments.push_back({done, start, false});
        segments.push_back({start, pos, true});
        done = pos;
      }
      if (done < range.end) segments.push_back({done, range.end, false});
      emit_segments(segments, behavior_, range, out);
    }
    words.ranges = std::move(out);
  }

 private:
  std::function<bool(char32_t)> is_match_;
  Behavior behavior_;
  bool ascii_[128];
};

/// Rewrites every word through `rewrite(word, at_text_start, out)`.
template <typename Rewrite>
void rewrite_words(Words& words, Rewrite&& rewrite) {
  std::string text;
  text.reserve(words.text.size() * 5 / 4 + 16);
  for (size_t i = 0; i < words.ranges.size(); ++i) {
    const size_t begin = text.size();
    rewrite(words[i], words.ranges[i].at_text_start, text);
    words.ranges[i].begin = begin;
    words.ranges[i].end = text.size();
  }
  words.text = std::move(text);
}

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const json& c) : add_prefix_space_(json_flag(c, "add_prefix_space", true)) {
    if (!json_flag(c, "use_regex", true)) return;
    split_ = std::make_unique<Split>(
        Regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"),
        Behavior::kIsolated, false);
  }
  void apply(Words& words) const override {
    if (add_prefix_space_) {
      rewrite_words(words, [](std::string_view word, bool, std::string& out) {
        if (!word.starts_with(' ')) out += ' ';
        out += word;
      });
    }
    if (split_) split_->apply(words);
    rewrite_words(words, [](std::string_view word, bool, std::string& out) { append_byte_level(out, word); });
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<Split> split_;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const json& c) : replacement_(json_string(c, "replacement", "\u2581")) {
    const bool legacy = json_flag(c, "add_prefix_space", true);
    prepend_ = json_string(c, "prepend_scheme", legacy ? "always" : "never");
    if (prepend_ != "always" && prepend_ != "first" && prepend_ != "never") {
      fail(ErrorCode::kUnsupported, "tokenizer Metaspace prepend_scheme '{}' is not supported", prepend_);
    }
    if (utf8_length(replacement_) != 1) {
      fail(ErrorCode::kDataCorrupt, "tokenizer Metaspace replacement '{}' must be one character",
           replacement_);
    }
    if (json_flag(c, "split", true)) {
      split_ = std::make_unique<Split>(Regex::literal(replacement_), Behavior::kMergedWithNext, false);
    }
  }
  void apply(Words& words) const override {
    rewrite_words(words, [this](std::string_view word, bool at_start, std::string& out) {
      const bool prepend = prepend_ == "always" || (prepend_ == "first" && at_start);
      if (prepend && !word.starts_with(' ') && !word.starts_with(replacement_)) out += replacement_;
      for (const char c : word) {
        if (c == ' ') {
          out += replacement_;
        } else {
          out += c;
        }
      }
    });
    if (split_) split_->apply(words);
  }

 private:
  std::string replacement_, prepend_;
  std::unique_ptr<Split> split_;
};

std::unique_ptr<PreTokenizer> make_delimiter_split(const json& component) {
  const std::string delimiter =
      json_required_string(component, "delimiter", "pre_tokenizer CharDelimiterSplit");
  return std::make_unique<Split>(Regex::literal(delimiter), Behavior::kRemoved, false);
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const json& component) {
  if (component.is_null()) return nullptr;
  const std::string type = component_type(component, "pre_tokenizer");
  if (type == "Sequence") return std::make_unique<Sequence>(component);
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(component);
  if (type == "Metaspace") return std::make_unique<Metaspace>(component);
  if (type == "Split") {
    return std::make_unique<Split>(make_pattern(component, "pre_tokenizer Split"),
                                   parse_behavior(json_required_string(component, "behavior", "Split")),
                                   json_flag(component, "invert", false));
  }
  if (type == "Digits") {
    const bool individual = json_flag(component, "individual_digits", false);
    return std::make_unique<SplitChars>(is_unicode_number,
                                        individual ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "Punctuation") {
    return std::make_unique<SplitChars>(is_unicode_punctuation,
                                        parse_behavior(json_string(component, "behavior", "Isolated")));
  }
  if (type == "Whitespace") {
    return std::make_unique<Split>(Regex(R"(\w+|[^\w\s]+)"), Behavior::kRemoved, true);
  }
  if (type == "WhitespaceSplit") return std::make_unique<SplitChars>(is_unicode_space, Behavior::kRemoved);
  if (type == "CharDelimiterSplit") return make_delimiter_split(component);
  fail(ErrorCode::kUnsupported, "tokenizer pre_tokenizer '{}' is not supported", type);
}

}  // namespace polylora
