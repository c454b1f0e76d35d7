// The one exception type of the library.
//
// A problem that the user, a file, a request or a configuration causes is thrown as Error: one line that
// says what is wrong, where, and what to do about it. It is caught in three places only: the CLI main, the
// HTTP handlers and the engine step. Nothing in the library aborts, exits or prints.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace polylora {

enum class ErrorCode {
  kInvalidArgument,    // the caller asked for something that makes no sense   (CLI exit 2, HTTP 400)
  kNotFound,           // a named thing does not exist                         (CLI exit 1, HTTP 404)
  kAlreadyExists,      // a name is taken                                      (HTTP 400)
  kDataCorrupt,        // a file's content is not what its format demands      (HTTP 400)
  kUnsupported,        // well-formed, but nothing here implements it          (HTTP 400)
  kResourceExhausted,  // does not fit a memory or count limit                 (HTTP 400)
  kUnavailable,        // try again later: queue full, shutting down           (HTTP 503)
  kIo,                 // the operating system refused                         (HTTP 500)
  kInternal,           // our bug                                              (HTTP 500)
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Throws Error(code, formatted message).
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// For our own invariants: throws kInternal naming the caller's line. Must never be reachable from input.
/// (The two builtins are what std::source_location is made of; clang 14 lacks the latter.)
inline void check(bool condition, std::string_view what, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (!condition) fail(ErrorCode::kInternal, "internal error: {} ({}:{})", what, file, line);
}

}  // namespace polylora
