// Engines that share a backend compute in turns, a step at a time, each for an equal share of the time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

namespace polylora {

/// Who goes next: of those in line, the one that has computed for the least time. Pure bookkeeping.
///
/// Those that always have work get equal time, however long the steps of each are. Who waits, waits at most
/// for as long as its own last step took, and a step more, of each other member: until then they have caught
/// up with it. Who comes back from a pause starts level with the one that computes, so that it goes next
/// without having saved up time.
class TurnOrder {
 public:
  struct Member {
    double seconds = 0;  // computed, or level with those that did
    bool in_line = false;
  };

  void enter(Member& member) { members_.push_back(&member); }
  void leave(Member& member) { std::erase(members_, &member); }

  /// The member has work.
  void join_line(Member& member);
  /// Takes the next one out of the line; null when nobody waits.
  Member* next();

 private:
  std::vector<Member*> members_;
  double level_ = 0;  // what the member that went last had computed before
};

/// The turns of the engines of one backend. Thread-safe; without others a turn costs two uncontended locks.
class ComputeTurns {
 public:
  /// One engine's place, for its thread alone. Gives up its turn and its place in the line when it goes.
  class Seat {
   public:
    explicit Seat(std::shared_ptr<ComputeTurns> turns);
    ~Seat();
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;

    /// Waits for this seat's turn.
    void take();
    /// Ends the turn. With `more` work at hand, the seat is in line for the next one at once: the time until
    /// its take() cannot cost it the turn.
    void pass(bool more);

   private:
    friend class ComputeTurns;
    using Clock = std::chrono::steady_clock;

    const std::shared_ptr<ComputeTurns> turns_;
    TurnOrder::Member member_;
    bool my_turn_ = false;
    std::condition_variable called_;
    Clock::time_point began_;
  };

 private:
  void call_next();  // with the mutex held

  std::mutex mutex_;
  TurnOrder order_;
  std::vector<Seat*> seats_;
  bool taken_ = false;
};

}  // namespace polylora
