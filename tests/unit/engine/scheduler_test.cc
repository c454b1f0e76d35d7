#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

#include "ops/weight.h"

namespace polylora {
namespace {

using Residency = AdapterRegistry::Residency;
using std::chrono::milliseconds;

/// Plays the engine: runs plans against a virtual clock and "samples" token 7 until a request has its output.
class Bench {
 public:
  explicit Bench(SchedulerOptions options, int pages = 4096)
      : pages_(pages, true), scheduler_(options, pages_, [this](const Sequence& s) { return acquire(s); }) {}

  Sequence& add(uint64_t adapter, int prompt, int output, int priority = 0) {
    Sequence& s = sequences_.emplace_back();
    s.number = sequences_.size();
    s.adapter = adapter;
    s.prompt_size = prompt;
    s.max_size = prompt + output;
    s.request.priority = priority;
    s.tokens.assign(static_cast<size_t>(prompt), static_cast<int32_t>(s.number));
    s.tokens.front() = static_cast<int32_t>(adapter);
    scheduler_.add(s, now_);
    return s;
  }

  const Plan& step() {
    const Plan& plan = scheduler_.plan(now_);
    now_ += step_time;
    ++steps;
    rows_ = 0;
    for (const Plan::Entry& entry : plan.entries) {
      rows_ += entry.rows;
      const bool samples = entry.samples();
      scheduler_.advance(entry);
      if (!samples) continue;
      entry.sequence->tokens.push_back(7);
      if (entry.sequence->size() < entry.sequence->max_size) continue;
      finished_at[entry.sequence->number] = steps;
      scheduler_.remove(*entry.sequence);
    }
    for (const Plan::Failure& failure : plan.failures) {
      failed.push_back(failure.sequence->number);
      scheduler_.remove(*failure.sequence);
    }
    scheduler_.check_integrity();
    return plan;
  }

  /// Steps until `sequence` has all its output; false after `limit` steps.
  bool finish(const Sequence& sequence, int limit = 100000) {
    while (limit-- > 0 && !finished_at.contains(sequence.number)) step();
    return finished_at.contains(sequence.number);
  }
  bool finish_all(int limit = 100000) {
    while (limit-- > 0 && scheduler_.running() + scheduler_.waiting() > 0) step();
    return scheduler_.running() + scheduler_.waiting() == 0;
  }

  Scheduler& scheduler() { return scheduler_; }
  int rows() const { return rows_; }
  EngineClock::time_point now() const { return now_; }

  std::map<uint64_t, AdapterRegistry::Acquired> residency;  // absent: ready
  std::map<uint64_t, int> finished_at;                      // number -> step
  std::vector<uint64_t> failed;
  int steps = 0;
  milliseconds step_time{10};

 private:
  AdapterRegistry::Acquired acquire(const Sequence& s) {
    const auto known = residency.find(s.adapter);
    if (known != residency.end()) return known->second;
    return {Residency::kReady, adapter_, std::nullopt};
  }

  std::shared_ptr<const Adapter> adapter_ = std::make_shared<Adapter>(ModelConfig());
  KvPages pages_;
  std::deque<Sequence> sequences_;
  EngineClock::time_point now_{};
  int rows_ = 0;
  Scheduler scheduler_;
};

TEST(Scheduler, ChunksPrefillUnderTheBudgetAndDecodesFirst) {
  Bench bench({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  const Sequence& small = bench.add(0, 10, 20);
  bench.step();
  EXPECT_EQ(small.output_size(), 1);
  const Sequence& large = bench.add(0, 200, 2);
  for (int i = 0; i < 3; ++i) {
    bench.step();
    EXPECT_EQ(bench.rows(), 64);
    EXPECT_EQ(small.output_size(), 2 + i) << "decoding goes on during a long prefill";
    EXPECT_EQ(large.output_size(), 0);
  }
  bench.step();
  EXPECT_EQ(large.output_size(), 1);
}

TEST(Scheduler, GroupsRowsByAdapterAndLimitsDistinctAdapters) {
  Bench bench({.max_num_seqs = 16, .max_num_batched_tokens = 512, .max_loras = 2});
  for (int i = 0; i < 12; ++i) bench.add(static_cast<uint64_t>(i % 4), 5, 30);
  for (int i = 0; i < 10; ++i) {
    std::vector<uint64_t> order;
    for (const Plan::Entry& entry : bench.step().entries) {
      if (order.empty() || order.back() != entry.sequence->adapter) order.push_back(entry.sequence->adapter);
    }
    EXPECT_TRUE(std::ranges::is_sorted(order));
    EXPECT_EQ(std::ranges::count_if(order, [](uint64_t a) { return a != 0; }), 2);
  }
  EXPECT_TRUE(bench.finish_all());
}

TEST(Scheduler, AFloodOnOneAdapterDoesNotDelayAnother) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 256});
  for (int i = 0; i < 500; ++i) bench.add(1, 100, 40);
  for (int i = 0; i < 20; ++i) bench.step();
  const int before = bench.steps;
  const Sequence& lone = bench.add(2, 100, 10);
  ASSERT_TRUE(bench.finish(lone));
  EXPECT_LE(bench.steps - before, 40 + 10 + 2) << "next free slot, then its own tokens";
}

TEST(Scheduler, AgeingBreaksIntoLongRequestsThatHoldEverySlot) {
  Bench bench({.max_num_seqs = 4, .max_num_batched_tokens = 256});  // 2 s = 200 steps
  for (int i = 0; i < 500; ++i) bench.add(1, 50, 5000);
  for (int i = 0; i < 20; ++i) bench.step();
  const int before = bench.steps;
  const Sequence& lone = bench.add(2, 100, 10);
  ASSERT_TRUE(bench.finish(lone, 1000));
  EXPECT_LE(bench.steps - before, 200 + 10 + 3);
  EXPECT_EQ(bench.scheduler().counters().preemptions, 1u);
}

TEST(Scheduler, AgeingFreesAnAdapterSlot) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 256, .max_loras = 1});
  for (int i = 0; i < 500; ++i) bench.add(1, 50, 60);  // refilled before it ever drains
  const Sequence& lone = bench.add(2, 100, 10);
  ASSERT_TRUE(bench.finish(lone, 1000));
  EXPECT_LE(bench.steps, 200 + 10 + 3);
  EXPECT_TRUE(bench.finish_all());
}

TEST(Scheduler, PrefillBudgetIsSharedBetweenAdapters) {
  Bench bench({.max_num_seqs = 64, .max_num_batched_tokens = 256});
  for (int i = 0; i < 32; ++i) bench.add(1, 2000, 1);
  const Sequence& lone = bench.add(2, 2000, 1);
  ASSERT_TRUE(bench.finish(lone));
  EXPECT_LE(bench.steps, 2 * 2000 / 256 + 2) << "half of the budget is its own";
}

TEST(Scheduler, ServiceIsBalancedOverTime) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 64});
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) bench.add(1, 200, 20);
  for (int i = 0; i < 600; ++i) bench.add(2, 20, 20);
  std::map<uint64_t, double> service;
  for (int i = 0; i < 1500; ++i) {
    for (const Plan::Entry& entry : bench.step().entries) {
      service[entry.sequence->adapter] += entry.sequence->output_size() > 1 ? 2 : entry.rows;
    }
  }
  EXPECT_NEAR(service[1] / service[2], 1.0, 0.1);
}

TEST(Scheduler, ReturningAdaptersBringNoCredit) {
  Bench bench({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  bench.add(2, 10, 1);
  for (int i = 0; i < 100; ++i) bench.add(1, 60, 20);
  for (int i = 0; i < 300; ++i) bench.step();
  for (int i = 0; i < 50; ++i) bench.add(2, 60, 20);
  std::map<uint64_t, int> rows;
  for (int i = 0; i < 200; ++i) {
    for (const Plan::Entry& entry : bench.step().entries) rows[entry.sequence->adapter] += entry.rows;
  }
  EXPECT_NEAR(static_cast<double>(rows[1]) / rows[2], 1.0, 0.35);
}

TEST(Scheduler, FirstComeFirstServedWithinAnAdapterOrByPriority) {
  for (const bool priority : {false, true}) {
    Bench bench({.max_num_seqs = 1, .max_num_batched_tokens = 64, .priority = priority});
    const Sequence& low = bench.add(0, 5, 5, 9);
    const Sequence& urgent = bench.add(0, 5, 5, -1);
    const Sequence& other = bench.add(1, 5, 5, 3);
    ASSERT_TRUE(bench.finish_all());
    const auto at = [&](const Sequence& s) { return bench.finished_at[s.number]; };
    if (priority) {
      EXPECT_LT(at(urgent), at(other));
      EXPECT_LT(at(other), at(low));
    } else {
      EXPECT_LT(at(low), at(urgent));
    }
  }
}

TEST(Scheduler, PreemptsTheNewestOfTheMostServedAdapterAndFinishesAll) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 512}, 20);  // 320 tokens
  std::vector<const Sequence*> sequences;
  for (int i = 0; i < 8; ++i) sequences.push_back(&bench.add(static_cast<uint64_t>(i % 2), 16, 120));
  ASSERT_TRUE(bench.finish_all());
  EXPECT_GT(bench.scheduler().counters().preemptions, 0u);
  for (const Sequence* s : sequences) EXPECT_EQ(s->output_size(), 120);
}

TEST(Scheduler, ARequestThatNeedsNearlyAllPagesIsServedAmidAStream) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 256}, 64);  // 1024 tokens
  for (int i = 0; i < 8; ++i) bench.add(1, 60, 40);
  const Sequence& huge = bench.add(2, 1000, 20);
  for (int i = 0; i < 2000 && !bench.finished_at.contains(huge.number); ++i) {
    if (i % 5 == 0) bench.add(1, 60, 40);
    bench.step();
  }
  EXPECT_TRUE(bench.finished_at.contains(huge.number));
  EXPECT_TRUE(bench.finish_all());
}

TEST(Scheduler, WithoutChunkingAPromptIsComputedWhole) {
  Bench bench({.max_num_seqs = 8, .max_num_batched_tokens = 128, .chunked_prefill = false});
  for (int i = 0; i < 6; ++i) bench.add(static_cast<uint64_t>(i % 3), 20 + 20 * i, 10);
  const Sequence& whole = bench.add(0, 128, 3);
  while (!bench.finished_at.contains(whole.number) && bench.steps < 1000) {
    for (const Plan::Entry& entry : bench.step().entries) EXPECT_TRUE(entry.rows == 1 || entry.rows >= 20);
    EXPECT_LE(bench.rows(), 128);
  }
  EXPECT_TRUE(bench.finish_all());
}

TEST(Scheduler, AnAdapterThatLoadsOrFailsBlocksNobodyElse) {
  Bench bench({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  bench.residency[1] = {Residency::kLoading, nullptr, std::nullopt};
  bench.residency[2] = {Residency::kNoRoom, nullptr, std::nullopt};
  bench.residency[3] = {Residency::kFailed, nullptr, Error(ErrorCode::kDataCorrupt, "bad")};
  const Sequence& loading = bench.add(1, 10, 5);
  bench.add(2, 10, 5);
  const Sequence& failing = bench.add(3, 10, 5);
  const Sequence& fine = bench.add(4, 10, 5);
  ASSERT_TRUE(bench.finish(fine, 10));
  EXPECT_EQ(bench.failed, std::vector<uint64_t>{failing.number});
  EXPECT_EQ(bench.scheduler().waiting(), 2);
  for (const auto& load : bench.scheduler().adapter_loads()) EXPECT_TRUE(load.waits_for_weights);
  bench.residency.clear();
  EXPECT_TRUE(bench.finish(loading, 10));
  EXPECT_TRUE(bench.finish_all(10));
}

TEST(Scheduler, AStarvedAdapterWithoutRoomDisplacesTheMostServed) {
  Bench bench({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  for (int i = 0; i < 300; ++i) bench.add(1, 10, 50);
  bench.residency[2] = {Residency::kNoRoom, nullptr, std::nullopt};
  bench.add(2, 10, 5);
  for (int i = 0; i < 200; ++i) bench.step();
  EXPECT_EQ(bench.scheduler().counters().preemptions, 0u);
  for (int i = 0; i < 3; ++i) bench.step();
  EXPECT_GE(bench.scheduler().counters().preemptions, 3u) << "its weights are no longer held";
}

TEST(Scheduler, RandomLoadKeepsTheInvariantsAndRepeatsExactly) {
  const auto trace = [](unsigned seed) {
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    Bench bench(
        {.max_num_seqs = 6, .max_num_batched_tokens = 48, .max_loras = below(4), .priority = seed % 5 == 0},
        24);
    bench.step_time = milliseconds(100);
    std::vector<uint64_t> log;
    std::vector<Sequence*> added;
    for (int i = 0; i < 400; ++i) {
      if (below(3) == 0) {
        added.push_back(
            &bench.add(static_cast<uint64_t>(below(6)), 1 + below(200), 1 + below(150), below(3)));
      }
      if (below(40) == 0 && !added.empty()) {
        Sequence& gone = *added[static_cast<size_t>(below(static_cast<int>(added.size())))];
        if (!bench.finished_at.contains(gone.number)) {
          bench.scheduler().remove(gone);
          bench.finished_at[gone.number] = -1;
        }
      }
      for (const Plan::Entry& entry : bench.step().entries) {
        log.push_back(entry.sequence->number * 1000 + static_cast<uint64_t>(entry.rows));
      }
      EXPECT_LE(bench.rows(), 48);
    }
    EXPECT_TRUE(bench.finish_all()) << "seed " << seed;
    return log;
  };
  for (unsigned seed = 0; seed < 20; ++seed) EXPECT_EQ(trace(seed), trace(seed));
}

// Not a check but a number to look at: run with --gtest_also_run_disabled_tests.
TEST(SchedulerSpeed, DISABLED_Decode) {
  for (const auto& [running, waiting] : {std::pair(16, 0), std::pair(16, 1000), std::pair(128, 1000)}) {
    Bench bench({.max_num_seqs = running, .max_num_batched_tokens = 2048}, 1 << 16);
    for (int i = 0; i < running; ++i) bench.add(static_cast<uint64_t>(i % 16), 30, 4000);
    for (int i = 0; i < waiting; ++i) bench.add(static_cast<uint64_t>(i), 30, 4000);
    for (int i = 0; i < 10; ++i) bench.step();
    double best = 1e9;
    for (int i = 0; i < 50; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const Plan& plan = bench.scheduler().plan(bench.now());
      for (const Plan::Entry& entry : plan.entries) {
        bench.scheduler().advance(entry);
        entry.sequence->tokens.push_back(7);
      }
      best = std::min(
          best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("%3d rows, %4d adapters waiting: %.1f us / step\n", running, waiting, best);
  }
}

}  // namespace
}  // namespace polylora
