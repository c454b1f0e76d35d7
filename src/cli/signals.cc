#include "cli/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>
#include <utility>

namespace polylora {
namespace {

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

struct SignalWatcher::State {
  std::mutex mutex;
  std::function<void()> handler;
  std::atomic<bool> stopping = false;
  std::thread thread;

  void watch() {
    const sigset_t set = watched_signals();
    int signal = 0;
    while (sigwait(&set, &signal) == 0) {
      if (stopping) return;
      const std::lock_guard lock(mutex);
      if (!handler) quit();
      handler();
    }
  }
};

SignalWatcher::SignalWatcher() : state_(std::make_unique<State>()) {
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  state_->thread = std::thread([state = state_.get()] { state->watch(); });
}

SignalWatcher::~SignalWatcher() {
  state_->stopping = true;
  pthread_kill(state_->thread.native_handle(), SIGTERM);  // wakes sigwait
  state_->thread.join();
}

void SignalWatcher::set_handler(std::function<void()> handler) {
  const std::lock_guard lock(state_->mutex);
  state_->handler = std::move(handler);
}

SignalWatcher::Scope::Scope(SignalWatcher& watcher, std::function<void()> handler) : watcher_(watcher) {
  watcher_.set_handler(std::move(handler));
}

SignalWatcher::Scope::~Scope() {
  watcher_.set_handler({});
}

void SignalWatcher::quit() {
  _exit(128 + SIGINT);
}

}  // namespace polylora
