#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace polylora {
namespace {

TEST(ThreadPool, RunsTheBodyOnceOnEveryMember) {
  for (int size = 1; size <= 5; ++size) {
    ThreadPool pool(size);
    ASSERT_EQ(pool.size(), size);
    std::vector<int> calls(static_cast<size_t>(size));
    for (int i = 0; i < 200; ++i) pool.run([&](int member) { ++calls[static_cast<size_t>(member)]; });
    EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(size), 200));
  }
}

TEST(ThreadPool, ParallelForCoversTheRangeOnce) {
  ThreadPool pool(3);
  for (int64_t count : {0, 1, 2, 3, 7, 64, 100}) {
    for (int64_t grain : {1, 4, 16}) {
      std::vector<int> seen(static_cast<size_t>(count));
      pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        EXPECT_EQ(begin % grain, 0);
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(count), 1));
    }
  }
}

TEST(ThreadPool, BarrierSeparatesPhases) {
  constexpr int kSize = 4;
  ThreadPool pool(kSize);
  std::vector<int> phase(kSize);
  std::atomic<int> torn{0};
  pool.run([&](int member) {
    for (int i = 1; i <= 200; ++i) {
      phase[static_cast<size_t>(member)] = i;
      pool.barrier();
      for (const int other : phase) torn += other != i;
      pool.barrier();
    }
  });
  EXPECT_EQ(torn, 0);
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(2);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far longer than the spin
    std::atomic<int> calls{0};
    pool.run([&](int) { ++calls; });
    EXPECT_EQ(calls, 2);
  }
}

TEST(ThreadPool, IdleCostsNoCpu) {
  const ThreadPool pool(4);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // let the spins end
  const auto used = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(used() - before, 0.02);
}

}  // namespace
}  // namespace polylora
