#include "engine/compute_turns.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace polylora {
namespace {

using Member = TurnOrder::Member;

/// Members that always have work, each with steps of its own length.
struct Busy {
  Member member;
  double step_seconds;
  double waited = 0, longest_wait = 0;
};

/// Returns the time that passed.
double run_turns(TurnOrder& order, std::vector<Busy>& all, int turns) {
  double now = 0;
  for (int turn = 0; turn < turns; ++turn) {
    for (Busy& busy : all) order.join_line(busy.member);
    const Member* next = order.next();
    const auto went = std::find_if(all.begin(), all.end(), [&](Busy& busy) { return &busy.member == next; });
    went->member.seconds += went->step_seconds;
    went->longest_wait = std::max(went->longest_wait, went->waited);
    for (Busy& busy : all) busy.waited += went->step_seconds;
    went->waited = 0;
    now += went->step_seconds;
  }
  return now;
}

TEST(TurnOrder, GivesEqualTimeToStepsOfAnyLength) {
  TurnOrder order;
  std::vector<Busy> all{{{}, 0.3}, {{}, 0.01}, {{}, 0.05}};
  for (Busy& busy : all) order.enter(busy.member);
  const double time = run_turns(order, all, 3000);
  for (const Busy& busy : all) EXPECT_NEAR(busy.member.seconds, time / 3, 0.31);
}

TEST(TurnOrder, NobodyWaitsLongerThanItsOwnStepAndOneMoreOfEachOther) {
  TurnOrder order;
  std::vector<Busy> all{{{}, 0.3}, {{}, 0.01}, {{}, 0.07}};
  for (Busy& busy : all) order.enter(busy.member);
  run_turns(order, all, 3000);
  for (const Busy& busy : all) {
    double bound = 0;
    for (const Busy& other : all)
      if (&other != &busy) bound += busy.step_seconds + other.step_seconds;
    EXPECT_LE(busy.longest_wait, bound + 1e-9) << busy.step_seconds;
  }
}

TEST(TurnOrder, APauseSavesUpNoTimeAndCostsNone) {
  TurnOrder order;
  Member busy, guest;
  order.enter(busy);
  order.enter(guest);
  for (int i = 0; i < 100; ++i) {
    order.join_line(busy);
    ASSERT_EQ(order.next(), &busy);
    busy.seconds += 1;
  }
  order.join_line(busy);
  order.join_line(guest);
  EXPECT_EQ(order.next(), &guest) << "it has computed less";
  guest.seconds += 1.5;
  order.join_line(guest);
  EXPECT_EQ(order.next(), &busy) << "the guest's hundred idle seconds are not made up for";
}

TEST(TurnOrder, AnEmptyLineHasNoNext) {
  TurnOrder order;
  Member member;
  order.enter(member);
  EXPECT_EQ(order.next(), nullptr);
  order.join_line(member);
  order.leave(member);
  EXPECT_EQ(order.next(), nullptr);
}

TEST(ComputeTurns, OnlyOneComputesAndAllGetOn) {
  const auto turns = std::make_shared<ComputeTurns>();
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      ComputeTurns::Seat seat(turns);
      for (int step = 0; step < 500; ++step) {
        seat.take();
        if (++inside != 1) overlapped = true;
        --inside;
        seat.pass(step % (t + 2) != 0);  // some go on, some pause
      }
    });  // the last turn may end with `more`: the seat leaves the line
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(overlapped);
}

TEST(ComputeTurns, ASeatThatGoesGivesUpItsTurn) {
  const auto turns = std::make_shared<ComputeTurns>();
  {
    ComputeTurns::Seat leaving(turns);
    leaving.take();
  }
  ComputeTurns::Seat next(turns);
  next.take();  // or this would hang
  next.pass(false);
}

}  // namespace
}  // namespace polylora
