// A loop over records on several threads whose result and error are those of the plain loop.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/progress.h"

namespace polylora {

/// Calls body(i) for every i in [0, count), on `threads` threads (0: one per core), the caller's included.
/// When bodies throw, rethrows what the lowest i threw. `progress` is called on the caller's thread.
template <typename Body>
void for_each_record(size_t count, int threads, std::string_view what, const ProgressFn& progress,
                     Body&& body) {
  constexpr size_t kChunk = 16;
  std::atomic<size_t> next{0};
  std::mutex mutex;
  size_t failed_at = count;
  std::exception_ptr failure;
  const auto work = [&](bool reports) {
    while (true) {
      const size_t begin = next.fetch_add(kChunk);
      if (begin >= count) return;
      for (size_t i = begin; i < std::min(begin + kChunk, count); ++i) {
        try {
          body(i);
        } catch (...) {
          const std::lock_guard lock(mutex);
          // Chunks are handed out in order, so every lower record is being worked on or done.
          next = count;
          if (i < failed_at) {
            failed_at = i;
            failure = std::current_exception();
          }
          return;
        }
      }
      if (reports && progress) progress(what, static_cast<double>(begin) / static_cast<double>(count));
    }
  };
  const size_t wanted =
      threads > 0 ? static_cast<size_t>(threads) : std::max(1U, std::thread::hardware_concurrency());
  {
    std::vector<std::jthread> team;
    for (size_t i = 1; i < std::min(wanted, (count + kChunk - 1) / kChunk); ++i)
      team.emplace_back(work, false);
    work(true);
  }
  if (failure) std::rethrow_exception(failure);
  if (progress && count > 0) progress(what, 1.0);
}

}  // namespace polylora
