// Functions to call when something happened that several others may wait for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

namespace polylora {

/// Thread-safe.
class WakeCalls {
 public:
  /// The number to remove it by.
  uint64_t add(std::function<void()> wake) {
    const std::scoped_lock lock(mutex_);
    wakes_.emplace(++added_, std::move(wake));
    return added_;
  }
  /// It is not called any more once this returns.
  void remove(uint64_t number) {
    const std::scoped_lock lock(mutex_);
    wakes_.erase(number);
  }
  void call() {
    const std::scoped_lock lock(mutex_);
    for (const auto& [number, wake] : wakes_) wake();
  }

 private:
  std::mutex mutex_;  // held during the calls, so that remove() waits for them
  std::map<uint64_t, std::function<void()>> wakes_;
  uint64_t added_ = 0;
};

}  // namespace polylora
