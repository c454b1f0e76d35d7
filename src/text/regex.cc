#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

constexpr std::string_view kSpaceSet = R"(\x09-\x0d\x{85}\p{Z})";  // White_Space, exactly
constexpr std::string_view kWordSet = R"(\p{L}\p{M}\p{N}\p{Pc})";
constexpr std::string_view kHexSet = "0-9a-fA-F";

/// Rewrites the escapes whose meaning differs between Oniguruma and PCRE2: \s (PCRE2 adds U+180E), \w (PCRE2
/// lacks marks) and \h (hex digit there, horizontal space here).
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (pos_ < in_.size()) {
      if (in_[pos_] == '\\') {
        escape();
      } else if (in_class_) {
        class_char();
      } else {
        if (in_[pos_] == '[') open_class();
        out_ += in_[pos_++];
        if (in_class_) skip_class_start();
      }
    }
    return std::move(out_);
  }

 private:
  void open_class() { in_class_ = true; }

  /// '^' and a leading ']' are part of the opening.
  void skip_class_start() {
    if (pos_ < in_.size() && in_[pos_] == '^') out_ += in_[pos_++];
    if (pos_ < in_.size() && in_[pos_] == ']') out_ += "\\]", ++pos_;
  }

  void class_char() {
    if (in_[pos_] == '[') {
      const size_t end = in_.substr(pos_).starts_with("[:") ? in_.find(":]", pos_) : std::string_view::npos;
      if (end == std::string_view::npos) unsupported("a class inside a class");
      out_ += in_.substr(pos_, end + 2 - pos_);
      pos_ = end + 2;
      return;
    }
    if (in_.substr(pos_).starts_with("&&")) unsupported("a class intersection");
    if (in_[pos_] == ']') in_class_ = false;
    out_ += in_[pos_++];
  }

  void escape() {
    if (pos_ + 1 >= in_.size()) {
      out_ += in_[pos_++];
      return;
    }
    const char c = in_[pos_ + 1];
    std::string_view set;
    if (c == 's' || c == 'S') set = kSpaceSet;
    if (c == 'w' || c == 'W') set = kWordSet;
    if (c == 'h' || c == 'H') set = kHexSet;
    if (set.empty()) {
      out_ += in_.substr(pos_, 2);
    } else {
      const bool negated = c == 'S' || c == 'W' || c == 'H';
      if (in_class_ && negated) {
        if (c != 'S') unsupported(fmt::format("\\{} in a class", c));
        out_ += "\\S";
      } else if (in_class_) {
        out_ += set;
      } else {
        out_ += fmt::format("[{}{}]", negated ? "^" : "", set);
      }
    }
    pos_ += 2;
  }

  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "tokenizer regex '{}': {} is not supported", in_, what);
  }

  std::string_view in_;
  std::string out_;
  size_t pos_ = 0;
  bool in_class_ = false;
};

/// Match data and JIT stack of one thread, made on first use.
struct ThreadState {
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, nullptr);
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);

  ThreadState() {
    if (context == nullptr || data == nullptr) return;
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_match_limit(context, 20'000'000);
  }
  ~ThreadState() {
    pcre2_match_data_free(data);
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
  }
  ThreadState(const ThreadState&) = delete;
  ThreadState& operator=(const ThreadState&) = delete;
};

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

}  // namespace

struct Regex::Impl {
  pcre2_code* code = nullptr;
  std::string pattern;

  Impl(std::string_view source, uint32_t options) : pattern(source) {
    if (source.size() > 64 * 1024)
      fail(ErrorCode::kUnsupported, "tokenizer regex of {} bytes", source.size());
    int error = 0;
    size_t offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options, &error, &offset,
                         nullptr);
    if (code == nullptr) {
      PCRE2_UCHAR message[200] = {};
      pcre2_get_error_message(error, message, sizeof message);
      fail(ErrorCode::kDataCorrupt, "tokenizer regex '{}': {} at offset {}", source,
           reinterpret_cast<const char*>(message), offset);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter runs
  }
  ~Impl() { pcre2_code_free(code); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

Regex::Regex(std::string_view pattern) {
  if (!is_valid_utf8(pattern)) fail(ErrorCode::kDataCorrupt, "tokenizer regex is not valid UTF-8");
  impl_ = std::make_unique<Impl>(Translator(pattern).run(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

Regex Regex::literal(std::string_view text) {
  if (!is_valid_utf8(text)) fail(ErrorCode::kDataCorrupt, "tokenizer pattern is not valid UTF-8");
  Regex out;
  out.impl_ = std::make_unique<Impl>(text, PCRE2_UTF | PCRE2_LITERAL);
  return out;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, size_t from, std::pair<size_t, size_t>& match) const {
  ThreadState& state = thread_state();
  if (state.data == nullptr || state.context == nullptr) fail(ErrorCode::kResourceExhausted, "out of memory");
  const int rc = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                             PCRE2_NO_UTF_CHECK, state.data, state.context);
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0) {
    fail(ErrorCode::kResourceExhausted, "tokenizer regex '{}' failed on this text (PCRE2 error {})",
         impl_->pattern, rc);
  }
  const PCRE2_SIZE* ovector = pcre2_get_ovector_pointer(state.data);
  match = {ovector[0], ovector[1] < ovector[0] ? ovector[0] : ovector[1]};  // \K may turn the range around
  return true;
}

}  // namespace polylora
