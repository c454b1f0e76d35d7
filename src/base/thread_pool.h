// A fixed team of threads for data-parallel loops inside one model step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace polylora {

/// The calling thread is member 0 of the team; size()-1 workers help. Workers spin for a bounded time after a
/// loop and then sleep on a futex, so that an idle process uses no CPU. One caller at a time.
class ThreadPool {
 public:
  /// `threads` >= 1 counts the caller; 0 = one per CPU that this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Calls body(member) once on every member of the team and returns when all are done. body must not throw.
  template <typename Body>
  void run(Body&& body) {
    run_raw(
        [](void* context, int member) { (*static_cast<std::remove_reference_t<Body>*>(context))(member); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// Waits until every member has reached this point of a run() body.
  void barrier();

  /// Splits [0, count) into size() contiguous ranges, multiples of `grain`, and calls body(begin, end) for
  /// each.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    const int64_t units = (count + grain - 1) / grain;
    if (units <= 1 || size() == 1) {
      if (count > 0) body(int64_t{0}, count);
      return;
    }
    run([&](int member) {
      const int64_t begin = units * member / size() * grain;
      const int64_t end = units * (member + 1) / size() * grain;
      if (begin < count && begin < end) body(begin, end < count ? end : count);
    });
  }

 private:
  using RawBody = void (*)(void* context, int member);
  void run_raw(RawBody body, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polylora
