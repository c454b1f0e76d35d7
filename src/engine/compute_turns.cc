#include "engine/compute_turns.h"

#include <algorithm>
#include <utility>

namespace polylora {

void TurnOrder::join_line(Member& member) {
  if (member.in_line) return;
  member.in_line = true;
  member.seconds = std::max(member.seconds, level_);
}

TurnOrder::Member* TurnOrder::next() {
  Member* least = nullptr;
  for (Member* member : members_)
    if (member->in_line && (least == nullptr || member->seconds < least->seconds)) least = member;
  if (least == nullptr) return nullptr;
  least->in_line = false;
  level_ = std::max(level_, least->seconds);
  return least;
}

ComputeTurns::Seat::Seat(std::shared_ptr<ComputeTurns> turns) : turns_(std::move(turns)) {
  const std::scoped_lock lock(turns_->mutex_);
  turns_->order_.enter(member_);
  turns_->seats_.push_back(this);
}

ComputeTurns::Seat::~Seat() {
  const std::scoped_lock lock(turns_->mutex_);
  turns_->order_.leave(member_);
  std::erase(turns_->seats_, this);
  if (my_turn_) turns_->taken_ = false;
  turns_->call_next();
}

void ComputeTurns::Seat::take() {
  std::unique_lock lock(turns_->mutex_);
  if (!my_turn_) turns_->order_.join_line(member_);
  turns_->call_next();
  called_.wait(lock, [this] { return my_turn_; });
  began_ = Clock::now();
}

void ComputeTurns::Seat::pass(bool more) {
  const std::scoped_lock lock(turns_->mutex_);
  member_.seconds += std::chrono::duration<double>(Clock::now() - began_).count();
  my_turn_ = turns_->taken_ = false;
  if (more) turns_->order_.join_line(member_);
  turns_->call_next();
}

void ComputeTurns::call_next() {
  if (taken_) return;
  const TurnOrder::Member* next = order_.next();
  if (next == nullptr) return;
  Seat& seat = **std::ranges::find_if(seats_, [&](const Seat* at) { return &at->member_ == next; });
  taken_ = seat.my_turn_ = true;
  seat.called_.notify_one();
}

}  // namespace polylora
