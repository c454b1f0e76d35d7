#include "engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "ops/weight.h"

namespace polylora {
namespace {

// Producing a token costs the machine more than reading one: the weights of the VTC paper.
constexpr double kPromptCost = 1.0;
constexpr double kOutputCost = 2.0;

constexpr int kAdaptersPerBudget = 4;

}  // namespace

bool Scheduler::WaitOrder::operator()(const Sequence* a, const Sequence* b) const {
  if (by_priority && a->request.priority != b->request.priority) {
    return a->request.priority < b->request.priority;
  }
  return a->number < b->number;
}

Scheduler::Scheduler(const SchedulerOptions& options, KvPages& pages, AcquireFn acquire)
    : options_(options),
      pages_(pages),
      acquire_(std::move(acquire)),
      quantum_(options.chunked_prefill
                   ? std::max(kKvPageSize, options.max_num_batched_tokens / kAdaptersPerBudget)
                   : std::numeric_limits<int>::max()) {}

// ---------------------------------------------------------------------------------------------- accounts

Scheduler::Account& Scheduler::account_of(const Sequence& sequence) {
  return accounts_.at(sequence.adapter);
}

// An adapter that was away must not use the service it did not ask for to shut out the others: its counter
// starts at the lowest of those present. History ends when nobody is present.
Scheduler::Account& Scheduler::open_account(uint64_t adapter) {
  constexpr double kNobody = std::numeric_limits<double>::infinity();
  double level = kNobody;
  for (const auto& [id, account] : accounts_) {
    if (account.active()) level = std::min(level, account.service);
  }
  std::erase_if(accounts_,
                [&](const auto& entry) { return !entry.second.active() && entry.second.service <= level; });
  Account& account = accounts_.try_emplace(adapter, adapter, WaitOrder{options_.priority}).first->second;
  if (level != kNobody && !account.active()) account.service = std::max(account.service, level);
  return account;
}

void Scheduler::add(Sequence& sequence, EngineClock::time_point now) {
  sequence.waiting_since = now;
  open_account(sequence.adapter).waiting.insert(&sequence);
  ++waiting_;
}

void Scheduler::remove(Sequence& sequence) {
  if (sequence.running) {
    stop_running(sequence);
  } else if (account_of(sequence).waiting.erase(&sequence) > 0) {
    --waiting_;
  }
}

void Scheduler::stop_running(Sequence& sequence) {
  Account& account = account_of(sequence);
  std::erase(account.running, &sequence);
  std::erase(running_, &sequence);
  sequence.running = false;
  sequence.computed = sequence.granted = 0;
  pages_.release(sequence.table);
  if (account.running.empty()) account.weights.reset();
}

void Scheduler::preempt(Sequence& sequence, EngineClock::time_point now) {
  stop_running(sequence);
  sequence.waiting_since = now;
  account_of(sequence).waiting.insert(&sequence);
  ++waiting_;
  ++sequence.preemptions;
  ++counters_.preemptions;
}

// -------------------------------------------------------------------------------------------------- plan

const Plan& Scheduler::plan(EngineClock::time_point now) {
  plan_.entries.clear();
  plan_.failures.clear();
  for (auto& [id, account] : accounts_) account.failed = false;
  for (Sequence* sequence : running_) sequence->granted = 0;

  make_room_for_starved(now);
  grow_running(now);
  const int decodes = grant_decodes();
  share_prefill(options_.max_num_batched_tokens - decodes, now);
  release_unused_weights();
  fill_plan();
  return plan_;
}

// Fair order alone does not help an adapter that finds every slot, page or byte taken by long requests. When
// it has waited long enough, requests of adapters that received more service go back to waiting.
void Scheduler::make_room_for_starved(EngineClock::time_point now) {
  if (options_.priority) return;  // strict order is what this policy asks for
  Account* starved = nullptr;
  for (auto& [id, account] : accounts_) {
    if (account.waiting.empty() || !account.running.empty() || !aged(account, now)) continue;
    if (starved == nullptr || urgency(account, now).key() < urgency(*starved, now).key()) starved = &account;
  }
  if (starved == nullptr) return;

  const bool resident = acquire_weights(*starved);
  if (!resident && starved->residency != AdapterRegistry::Residency::kNoRoom) return;
  for (;;) {
    const bool adapter_blocked = !resident || !adapter_slot_free(*starved);
    const bool slot_free = running() < options_.max_num_seqs && fits(**starved->waiting.begin());
    Account* victim = most_served(*starved);
    if (victim == nullptr || (!adapter_blocked && slot_free)) return;
    do {
      preempt(*victim->running.back(), now);
    } while (adapter_blocked && !victim->running.empty());
    if (!resident) return;  // the registry can now drop the victim's weights
  }
}

// Every running request gets the page for its newest token before any row is granted.
void Scheduler::grow_running(EngineClock::time_point now) {
  scratch_ = running_;
  for (Sequence* sequence : scratch_) {
    while (sequence->running && !pages_.grow(sequence->table, sequence->size())) preempt(page_victim(), now);
  }
}

int Scheduler::grant_decodes() {
  int rows = 0;
  for (Sequence* sequence : running_) {
    if (sequence->remaining() == 1) rows += grant(account_of(*sequence), *sequence, 1);
  }
  return rows;
}

void Scheduler::share_prefill(int budget, EngineClock::time_point now) {
  const auto later = [](const Urgency& a, const Urgency& b) { return b.key() < a.key(); };
  admission_open_ = running() < options_.max_num_seqs;
  queue_.clear();
  for (auto& [id, account] : accounts_) {
    if (wants_prefill(account)) queue_.push_back(urgency(account, now));
  }
  std::ranges::make_heap(queue_, later);
  while (budget > 0 && !queue_.empty()) {
    std::ranges::pop_heap(queue_, later);
    Account& account = *queue_.back().account;
    queue_.pop_back();
    Sequence* sequence = unfinished_prefill(account);
    if (sequence == nullptr) sequence = admit(account, now);
    if (sequence == nullptr) continue;
    const int wanted = std::min(sequence->remaining() - sequence->granted, quantum_);
    if (wanted > budget && !options_.chunked_prefill) return;  // whole, in a step with fewer decodes
    budget -= grant(account, *sequence, std::min(wanted, budget));
    account.last_granted = now;
    if (!wants_prefill(account)) continue;
    queue_.push_back(urgency(account, now));
    std::ranges::push_heap(queue_, later);
  }
}

void Scheduler::fill_plan() {
  for (const auto& [id, account] : accounts_) {
    for (Sequence* sequence : account.running) {
      if (sequence->granted > 0) {
        plan_.entries.push_back({sequence, sequence->granted, account.weights.get()});
      }
    }
  }
}

void Scheduler::advance(const Plan::Entry& entry) {
  Sequence& sequence = *entry.sequence;
  sequence.computed += entry.rows;
  pages_.seal(sequence.adapter, sequence.tokens, sequence.computed, sequence.table);
}

// ------------------------------------------------------------------------------------------------ choices

Sequence* Scheduler::unfinished_prefill(const Account& account) {
  const auto unfinished = [](const Sequence* sequence) { return sequence->granted < sequence->remaining(); };
  const auto found = std::ranges::find_if(account.running, unfinished);
  return found == account.running.end() ? nullptr : *found;
}

bool Scheduler::wants_prefill(const Account& account) const {
  if (admission_open_ && !account.waiting.empty() && !account.failed) return true;
  return unfinished_prefill(account) != nullptr;
}

Scheduler::Urgency Scheduler::urgency(Account& account, EngineClock::time_point now) const {
  const Sequence* head = account.waiting.empty() ? account.running.front() : *account.waiting.begin();
  Urgency result;
  result.priority = options_.priority ? head->request.priority : 0;
  if (aged(account, now)) {
    result.fresh = false;
    result.waiting = std::max(account.last_granted, head->waiting_since);
  }
  result.service = account.service;
  result.number = head->number;
  result.account = &account;
  return result;
}

bool Scheduler::aged(const Account& account, EngineClock::time_point now) const {
  if (account.waiting.empty()) return false;
  const auto since = std::max(account.last_granted, (*account.waiting.begin())->waiting_since);
  return now - since > options_.max_adapter_wait;
}

Scheduler::Account* Scheduler::most_served(const Account& above) {
  Account* most = nullptr;
  for (auto& [id, account] : accounts_) {
    if (account.running.empty() || account.service <= above.service) continue;
    if (most == nullptr || account.service > most->service) most = &account;
  }
  return most;
}

Sequence& Scheduler::page_victim() {
  const auto rank = [this](const Sequence* sequence) {
    return std::pair(options_.priority ? sequence->request.priority : 0, account_of(*sequence).service);
  };
  Sequence* victim = running_.front();
  for (Sequence* sequence : running_) {
    if (rank(sequence) >= rank(victim)) victim = sequence;  // the last of equals: most recently admitted
  }
  return *victim;
}

bool Scheduler::adapter_slot_free(const Account& account) const {
  if (options_.max_loras <= 0 || account.adapter == 0 || !account.running.empty()) return true;
  const auto taken = std::ranges::count_if(
      accounts_, [](const auto& entry) { return entry.first != 0 && !entry.second.running.empty(); });
  return taken < options_.max_loras;
}

// All present tokens, and one page of headroom for each request that runs, so that admitting does not end in
// preempting at the next step.
bool Scheduler::fits(const Sequence& sequence) const {
  const int missing = KvPages::pages_for(sequence.size()) - static_cast<int>(sequence.table.pages.size());
  return missing + running() <= pages_.available();
}

bool Scheduler::acquire_weights(Account& account) {
  if (account.adapter == 0 || account.weights != nullptr) return true;
  AdapterRegistry::Acquired acquired = acquire_(**account.waiting.begin());
  account.residency = acquired.residency;
  account.weights = std::move(acquired.adapter);
  if (acquired.error) {
    for (Sequence* sequence : account.waiting) plan_.failures.push_back({sequence, *acquired.error});
    account.failed = true;
  }
  return account.weights != nullptr;
}

// ------------------------------------------------------------------------------------------------ actions

/// Null when the first waiting request cannot start now: its adapter is not there, which concerns this
/// account only, or the machine is full, which ends admission for this step.
Sequence* Scheduler::admit(Account& account, EngineClock::time_point now) {
  if (!admission_open_ || !adapter_slot_free(account) || !acquire_weights(account)) return nullptr;
  Sequence& sequence = **account.waiting.begin();
  const int cached =
      sequence.reuse_prefix ? pages_.match(sequence.adapter, sequence.tokens, sequence.table) : 0;
  if (!fits(sequence) || !pages_.grow(sequence.table, sequence.size())) {
    pages_.release(sequence.table);
    admission_open_ = false;
    return nullptr;
  }
  account.waiting.erase(account.waiting.begin());
  --waiting_;
  account.running.push_back(&sequence);
  account.last_granted = now;
  running_.push_back(&sequence);
  admission_open_ = running() < options_.max_num_seqs;
  sequence.running = true;
  sequence.computed = cached;
  sequence.charged = std::max(sequence.charged, cached);
  if (sequence.cached_tokens < 0) {
    sequence.cached_tokens = cached;
    counters_.prefix_queries += static_cast<uint64_t>(sequence.reuse_prefix ? sequence.prompt_size : 0);
    counters_.prefix_hits += static_cast<uint64_t>(cached);
  }
  return &sequence;
}

int Scheduler::grant(Account& account, Sequence& sequence, int rows) {
  sequence.granted += rows;
  const int end = sequence.computed + sequence.granted;
  for (; sequence.charged < end; ++sequence.charged) {
    account.service += sequence.charged < sequence.prompt_size ? kPromptCost : kOutputCost;
  }
  return rows;
}

void Scheduler::release_unused_weights() {
  for (auto& [id, account] : accounts_) {
    if (account.running.empty()) account.weights.reset();
  }
}

// ------------------------------------------------------------------------------------------------- facts

std::vector<Scheduler::AdapterLoad> Scheduler::adapter_loads() const {
  std::vector<AdapterLoad> loads;
  for (const auto& [id, account] : accounts_) {
    if (!account.active()) continue;
    loads.push_back({
        .example = account.running.empty() ? *account.waiting.begin() : account.running.front(),
        .running = static_cast<int>(account.running.size()),
        .waiting = static_cast<int>(account.waiting.size()),
        .waits_for_weights =
            account.running.empty() && account.residency != AdapterRegistry::Residency::kReady,
    });
  }
  return loads;
}

void Scheduler::check_integrity() const {
  std::vector<const PageTable*> tables;
  size_t waiting = 0, running = 0;
  for (const auto& [id, account] : accounts_) {
    waiting += account.waiting.size();
    running += account.running.size();
    check(!account.running.empty() || account.weights == nullptr,
          "weights are held for running requests only");
    for (const Sequence* sequence : account.waiting) {
      check(!sequence->running && sequence->table.pages.empty(), "a waiting request holds no pages");
    }
    for (const Sequence* sequence : account.running) {
      check(sequence->running && sequence->adapter == id, "a running request is on its adapter's list");
      tables.push_back(&sequence->table);
    }
  }
  check(waiting == static_cast<size_t>(waiting_) && running == running_.size(), "requests are counted");
  pages_.check_integrity(tables);
}

}  // namespace polylora
