// Decides what the next step computes. Pure bookkeeping: no tensors, no threads, no clock of its own.
//
//   decode first    every running request that only needs its newest token gets one row
//   then prefill    the rest of the row budget goes, a quantum at a time, to the adapter that has received
//   the
//                   least service so far (virtual token counters, Sheng et al., "Fairness in Serving Large
//                   Language Models", OSDI'24); the base model counts as one adapter
//   ageing          an adapter that waited longer than max_adapter_wait goes before all others; if it has
//                   nothing running, requests of an adapter that received more service make room for it
//   preemption      when pages run out, a request of the most served adapter gives all its pages back and
//                   later recomputes them; tokens already sampled become part of its prompt
//
// Why nobody starves: a request is admitted only when pages for all its present tokens are free, and nothing
// is admitted past a request that waits for pages. So whatever runs can finish its prefill, one request alone
// always fits, and every preemption is paid for by another request's progress. Recomputed tokens are not
// charged again: an adapter cannot remain the victim without progress, since the others' counters pass its
// own.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "engine/adapter_registry.h"
#include "engine/kv_pages.h"
#include "engine/sequence.h"

namespace polylora {

struct SchedulerOptions {
  int max_num_seqs = 128;
  int max_num_batched_tokens = 2048;  // >= max_num_seqs
  int max_loras = 0;                  // 0: any
  bool chunked_prefill = true;        // false: max_num_batched_tokens holds any request whole
  bool priority = false;              // lower Request::priority first, before fairness
  std::chrono::duration<double> max_adapter_wait{2.0};
};

/// One step's work. Entries are grouped by adapter, the base model first.
struct Plan {
  struct Entry {
    Sequence* sequence = nullptr;
    int rows = 0;                      // tokens [computed, computed + rows)
    const Adapter* adapter = nullptr;  // null: base model; stays valid while its sequence runs
    /// The newest token is among the rows: the next one can be sampled.
    bool samples() const { return rows == sequence->remaining(); }
  };
  struct Failure {
    Sequence* sequence = nullptr;
    Error error;
  };
  std::vector<Entry> entries;
  std::vector<Failure> failures;  // their adapter cannot be loaded; still waiting: remove() them
};

struct SchedulerCounters {
  uint64_t preemptions = 0;
  uint64_t prefix_queries = 0;  // prompt tokens looked up
  uint64_t prefix_hits = 0;
};

class Scheduler {
 public:
  /// Asks for the weights of a sequence's adapter; never called for the base model.
  using AcquireFn = std::function<AdapterRegistry::Acquired(const Sequence&)>;

  Scheduler(const SchedulerOptions& options, KvPages& pages, AcquireFn acquire);

  /// The sequence waits from now on. It stays the caller's and must live until remove().
  void add(Sequence& sequence, EngineClock::time_point now);

  /// Takes a waiting or running sequence out and frees its pages.
  void remove(Sequence& sequence);

  /// The next step; valid until the next call. Empty when nothing can run now.
  const Plan& plan(EngineClock::time_point now);

  /// The rows of an entry are computed. Call before appending the sampled token.
  void advance(const Plan::Entry& entry);

  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return waiting_; }
  const SchedulerCounters& counters() const { return counters_; }

  /// One adapter's requests; `example` names the adapter.
  struct AdapterLoad {
    const Sequence* example = nullptr;
    int running = 0;
    int waiting = 0;
    bool waits_for_weights = false;
  };
  std::vector<AdapterLoad> adapter_loads() const;

  /// Throws kInternal when the bookkeeping contradicts itself.
  void check_integrity() const;

 private:
  struct WaitOrder {
    bool by_priority = false;
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  /// What is known about one adapter while it has requests.
  struct Account {
    Account(uint64_t adapter_, WaitOrder order) : adapter(adapter_), waiting(order) {}

    uint64_t adapter;
    std::set<Sequence*, WaitOrder> waiting;
    std::vector<Sequence*> running;                                             // in order of admission
    std::shared_ptr<const Adapter> weights;                                     // held while anything runs
    AdapterRegistry::Residency residency = AdapterRegistry::Residency::kReady;  // at the last question
    double service = 0;                    // tokens computed, output counted twice
    EngineClock::time_point last_granted;  // prefill
    bool failed = false;                   // its waiting requests are in plan_.failures

    bool active() const { return !waiting.empty() || !running.empty(); }
  };
  /// Whose turn it is to get prefill rows; smaller goes first.
  struct Urgency {
    int priority = 0;
    bool fresh = true;                // not aged
    EngineClock::time_point waiting;  // since when, if aged
    double service = 0;
    uint64_t number = 0;  // of the first request: a total order
    Account* account = nullptr;

    auto key() const { return std::tie(priority, fresh, waiting, service, number); }
  };

  Account& account_of(const Sequence& sequence);
  Account& open_account(uint64_t adapter);

  void make_room_for_starved(EngineClock::time_point now);
  void grow_running(EngineClock::time_point now);
  int grant_decodes();
  void share_prefill(int budget, EngineClock::time_point now);
  void fill_plan();

  static Sequence* unfinished_prefill(const Account& account);
  bool wants_prefill(const Account& account) const;
  Urgency urgency(Account& account, EngineClock::time_point now) const;
  bool aged(const Account& account, EngineClock::time_point now) const;
  Account* most_served(const Account& above);
  bool adapter_slot_free(const Account& account) const;
  bool fits(const Sequence& sequence) const;
  bool acquire_weights(Account& account);

  Sequence* admit(Account& account, EngineClock::time_point now);
  int grant(Account& account, Sequence& sequence, int rows);
  Sequence& page_victim();
  void preempt(Sequence& sequence, EngineClock::time_point now);
  void stop_running(Sequence& sequence);
  void release_unused_weights();

  const SchedulerOptions options_;
  KvPages& pages_;
  const AcquireFn acquire_;
  const int quantum_;                     // rows granted to one adapter before the next is asked
  std::map<uint64_t, Account> accounts_;  // by adapter: plans come out in this order
  std::vector<Sequence*> running_;        // in order of admission
  std::vector<Sequence*> scratch_;
  std::vector<Urgency> queue_;  // a heap, the most urgent in front
  int waiting_ = 0;
  bool admission_open_ = false;  // within plan()
  SchedulerCounters counters_;
  Plan plan_;
};

}  // namespace polylora
