#include "tune/data/parallel_records.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace polylora {
namespace {

constexpr size_t kCounts[] = {0, 1, 15, 16, 17, 1000};

TEST(ParallelRecords, VisitsEveryRecordOnce) {
  for (const size_t count : kCounts) {
    for (const int threads : {0, 1, 3, 8}) {
      std::vector<int> visits(count, 0);
      for_each_record(count, threads, "", {}, [&](size_t i) { ++visits[i]; });
      EXPECT_EQ(visits, std::vector<int>(count, 1)) << count << " records, " << threads << " threads";
    }
  }
}

TEST(ParallelRecords, ThrowsWhatTheFirstBadRecordThrows) {
  const auto body = [](size_t i) {
    if (i == 137 || i == 138 || i > 500) throw std::runtime_error(std::to_string(i));
  };
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      for_each_record(1000, 4, "", {}, body);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      ASSERT_STREQ(error.what(), "137");
    }
  }
}

TEST(ParallelRecords, ReportsProgressOnTheCallersThreadUpToTheEnd) {
  const std::thread::id caller = std::this_thread::get_id();
  double last = -1;
  const ProgressFn progress = [&](std::string_view what, double share) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(what, "reading");
    EXPECT_GE(share, last);
    last = share;
  };
  for_each_record(1000, 4, "reading", progress, [](size_t) {});
  EXPECT_EQ(last, 1.0);
}

TEST(ParallelRecords, AProgressThatThrowsEndsTheLoopAfterItsThreads) {
  const ProgressFn stop = [](std::string_view, double) { throw std::runtime_error("stopped"); };
  std::vector<int> visits(1000, 0);
  EXPECT_THROW(for_each_record(visits.size(), 4, "", stop, [&](size_t i) { ++visits[i]; }),
               std::runtime_error);
  for (const int count : visits) EXPECT_LE(count, 1);
}

}  // namespace
}  // namespace polylora
