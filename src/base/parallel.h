// Short-lived threads for work beside the engine's: packing must not disturb its pool.
#pragma once

#include <exception>
#include <thread>
#include <vector>

namespace polylora {

/// Calls body(i) for i = 0 … threads-1, each on a thread of its own, the caller's included, and waits for
/// all. The first exception, by i, is rethrown. A thread costs about 20 µs.
template <typename Body>
void run_on_threads(int threads, Body&& body) {
  std::vector<std::exception_ptr> failures(static_cast<size_t>(threads));
  const auto run = [&](int i) {
    try {
      body(i);
    } catch (...) {
      failures[static_cast<size_t>(i)] = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(run, i);
  run(0);
  for (std::thread& helper : helpers) helper.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace polylora
