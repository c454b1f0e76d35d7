// SIGINT and SIGTERM, handled on an ordinary thread.
#pragma once

#include <functional>
#include <memory>

namespace polylora {

/// Blocks both signals for the calling thread and all threads it starts later, and hands each one that
/// arrives to a handler on a thread of its own, where anything may be called. Construct it before other
/// threads start. While there is no handler, a signal ends the process at once, as it does without a watcher.
class SignalWatcher {
 public:
  SignalWatcher();
  ~SignalWatcher();

  /// The handler in force while this object lives.
  class [[nodiscard]] Scope {
   public:
    Scope(SignalWatcher& watcher, std::function<void()> handler);
    ~Scope();  // waits for a running handler
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    SignalWatcher& watcher_;
  };

  /// What a signal does without a handler: ends the process at once with the shell's status for SIGINT.
  [[noreturn]] static void quit();

 private:
  void set_handler(std::function<void()> handler);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polylora
