#include "cli/bench_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace polylora {
namespace {

constexpr KernelBenchOptions kQuick = {.threads = 1, .seconds = 0.001};

Figure sleeping(double bytes, double operations) {
  return {.op = "sleep", .shape = "1 ms", .bytes = bytes, .operations = operations, .run = [](int) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }};
}

TEST(KernelBench, HoldsAFigureAgainstWhatTakesTheMachineLonger) {
  KernelBench bench(kQuick);
  bench.measure(sleeping(/*bytes=*/1e9, /*operations=*/1));
  bench.measure(sleeping(/*bytes=*/1, /*operations=*/1e12));
  const auto figures = bench.results().at("figures");
  ASSERT_EQ(figures.size(), 2U);
  EXPECT_EQ(figures[0].at("limit"), "read");
  EXPECT_GT(figures[0].at("read_gb_per_second").get<double>(), 0.0);
  const bool has_peak = figures[1].at("peak_gop_per_second").get<double>() > 0;
  EXPECT_EQ(figures[1].at("limit"), has_peak ? "f32 peak" : "read");
}

TEST(KernelBench, TimesWhatACallTakes) {
  KernelBench bench(kQuick);
  const double seconds = bench.measure(sleeping(1, 1));
  EXPECT_GE(seconds, 0.001);
  const auto figure = bench.results().at("figures").at(0);
  EXPECT_GE(seconds, figure.at("best_seconds").get<double>());
  EXPECT_EQ(seconds, figure.at("median_seconds").get<double>());
}

TEST(KernelBench, FiguresTakeTurnsAndNumberTheirCalls) {
  KernelBench bench(kQuick);
  std::vector<int> order, calls;
  Figure first = sleeping(1, 1), second = first;
  first.run = [&](int call) {
    order.push_back(1);
    calls.push_back(call);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  second.run = [&](int) { order.push_back(2); };
  bench.measure({first, second});
  order.erase(std::unique(order.begin(), order.end()), order.end());
  EXPECT_GE(order.size(), 6U);  // three turns of each
  for (size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i], static_cast<int>(i));
}

}  // namespace
}  // namespace polylora
