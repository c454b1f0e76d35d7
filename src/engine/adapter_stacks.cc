#include "engine/adapter_stacks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/adapter_generation.h"

namespace polylora {
namespace {

constexpr size_t kMostStacks = 256;

std::string stack_name(std::span<const StackTerm> members) {
  std::string name;
  for (const StackTerm& member : members) {
    if (!name.empty()) name += '+';
    if (member.weight != 1.0f) name += fmt::format("{:g}*", member.weight);
    name += member.adapter->name;
  }
  return name;
}

AdapterLease make_stack(std::span<const StackTerm> members) {
  auto stack = std::make_shared<AdapterGeneration>();
  stack->name = stack_name(members);
  stack->base = members.front().adapter->base;
  stack->members.assign(members.begin(), members.end());
  for (const StackTerm& member : members) stack->rank += member.adapter->rank;
  return stack;
}

}  // namespace

void check_stack(std::span<const StackTerm> members, const AdapterBudget& budget) {
  size_t bytes = 0;
  for (const StackTerm& member : members) {
    const std::string& name = member.adapter->name;
    if (!member.adapter->stackable) {
      fail(ErrorCode::kInvalidArgument,
           "LoRA adapter '{}' cannot be combined with others: it has DoRA, biases or whole matrices", name);
    }
    if (member.adapter->base != members.front().adapter->base) {
      fail(ErrorCode::kInvalidArgument,
           "LoRA adapters '{}' and '{}' cannot be combined: they have different base models",
           members.front().adapter->name, name);
    }
    if (!std::isfinite(member.weight))
      fail(ErrorCode::kInvalidArgument, "The weight of LoRA adapter '{}' must be a finite number.", name);
    const auto same = [&](const StackTerm& other) { return other.adapter == member.adapter; };
    if (std::ranges::count_if(members, same) > 1)
      fail(ErrorCode::kInvalidArgument, "LoRA adapter '{}' is given twice; give it one weight", name);
    bytes += member.adapter->bytes;
  }
  const bool too_many = budget.max_count() > 0 && static_cast<int>(members.size()) > budget.max_count();
  if (bytes > budget.max_bytes() || too_many) {
    fail(ErrorCode::kResourceExhausted,
         "The {} LoRA adapters need {} bytes together, more than there is room for ({} bytes)",
         members.size(), bytes, budget.max_bytes());
  }
}

AdapterLease AdapterStacks::get(std::span<const StackTerm> members) {
  const auto known = std::ranges::find_if(
      recent_, [&](const AdapterLease& stack) { return std::ranges::equal(stack->members, members); });
  AdapterLease stack;
  if (known != recent_.end()) {
    stack = std::move(*known);
    recent_.erase(known);
  } else {
    stack = make_stack(members);
  }
  if (std::ranges::all_of(members, [](const StackTerm& member) { return member.adapter->published; }))
    recent_.push_back(stack);
  if (recent_.size() > kMostStacks) recent_.pop_front();
  return stack;
}

void AdapterStacks::forget(const AdapterGeneration& member) {
  std::erase_if(recent_, [&](const AdapterLease& stack) {
    return std::ranges::any_of(stack->members,
                               [&](const StackTerm& term) { return term.adapter.get() == &member; });
  });
}

}  // namespace polylora
