// Regular expressions as tokenizer.json writes them (Oniguruma's Ruby syntax), run by PCRE2 with JIT.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace polylora {

/// A compiled pattern. Immutable; find() is thread-safe (each thread has its own match state).
class Regex {
 public:
  /// Throws kDataCorrupt when the pattern does not compile, kUnsupported for Oniguruma syntax that PCRE2
  /// would silently read differently (nested classes, class intersections).
  explicit Regex(std::string_view pattern);
  /// A pattern that matches `text` literally.
  static Regex literal(std::string_view text);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Finds the next match at or after `from` in valid UTF-8. Throws kResourceExhausted when matching exceeds
  /// PCRE2's limits (a pathological pattern).
  bool find(std::string_view text, size_t from, std::pair<size_t, size_t>& match) const;

 private:
  Regex() = default;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polylora
