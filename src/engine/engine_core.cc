#include "engine/engine_core.h"

#include <algorithm>
#include <limits>
#include <thread>

#include "base/error.h"

namespace polylora {
namespace {

// Prompt log-probabilities want the logits of every row: this many rows at a time.
constexpr int kScoredRows = 64;

constexpr unsigned kMaxSamplerThreads = 8;

size_t page_bytes(const ModelConfig& config, DType dtype) {
  return kKvPageSize * kv_token_bytes(dtype, config.num_layers, config.num_kv_heads, config.head_dim);
}

KvCacheShape kv_cache_shape(const ModelConfig& config, const EngineOptions& options) {
  const size_t bytes = page_bytes(config, options.kv_cache_dtype);
  const size_t pages = options.kv_cache_bytes / bytes;
  const auto needed = static_cast<size_t>(KvPages::pages_for(options.max_model_len));
  if (pages < needed) {
    fail(
        ErrorCode::kResourceExhausted,
        "a request of --max-model-len {} needs {} bytes of KV cache, but it has {}; lower --max-model-len or "
        "give the KV cache more memory",
        options.max_model_len, needed * bytes, options.kv_cache_bytes);
  }
  return {.layers = config.num_layers,
          .pages = static_cast<int>(std::min(pages, size_t{std::numeric_limits<int32_t>::max()})),
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .dtype = options.kv_cache_dtype};
}

SchedulerOptions scheduler_options(const EngineOptions& options) {
  return {.max_num_seqs = options.max_num_seqs,
          .max_num_batched_tokens = options.max_num_batched_tokens,
          .max_loras = options.max_loras,
          .chunked_prefill = options.enable_chunked_prefill,
          .priority = options.priority_scheduling,
          .max_adapter_wait = std::chrono::duration<double>(options.max_adapter_wait_s)};
}

int sampler_threads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMaxSamplerThreads));
}

double seconds_since(EngineClock::time_point start, EngineClock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

RequestTimes times_of(const Sequence& sequence) {
  constexpr EngineClock::time_point kNever;
  const auto since_arrival = [&](EngineClock::time_point at) {
    return at == kNever ? -1.0 : seconds_since(sequence.arrived, at);
  };
  return {.queued = since_arrival(sequence.first_scheduled),
          .first_token = since_arrival(sequence.first_token),
          .finished = since_arrival(EngineClock::now())};
}

Finish finish_with(FinishReason reason) {
  Finish finish;
  finish.reason = reason;
  return finish;
}

Finish finish_with(const Error& error) {
  Finish finish = finish_with(FinishReason::kError);
  finish.error = error;
  return finish;
}

Finish finish_with_stop_token(int32_t id) {
  Finish finish = finish_with(FinishReason::kStop);
  finish.stop_token_id = id;
  return finish;
}

/// What the grammar allowed, other parameters of the request took away; or it needs more memory than it may
/// have.
Error no_token_left() {
  return Error(ErrorCode::kInvalidArgument,
               "no token satisfies the request's grammar together with its allowed_token_ids, bad_words and "
               "logit_bias, or the grammar is too complex");
}

/// A config, the model's or an adapter's, may name ids that no row of lm_head stands for.
std::vector<int32_t> known_ids(std::vector<int32_t> ids, int vocab_size) {
  std::erase_if(ids, [&](int32_t id) { return id < 0 || id >= vocab_size; });
  return ids;
}

void insert_once(std::vector<std::string>& names, const std::string& name) {
  if (std::ranges::find(names, name) == names.end()) names.push_back(name);
}

bool contains(std::span<const int32_t> ids, int32_t id) {
  return std::ranges::find(ids, id) != ids.end();
}

}  // namespace

EngineCore::EngineCore(const Model& model, Backend& backend, AdapterRegistry& registry,
                       const EngineOptions& options)
    : model_(model),
      options_(options),
      cache_(backend.make_kv_cache(kv_cache_shape(model.config, options))),
      pages_(cache_->shape().pages, options.enable_prefix_caching),
      scheduler_(
          scheduler_options(options), pages_,
          [&registry](const Sequence& sequence) { return registry.acquire(sequence.request.adapter); }),
      forward_(model, backend, options.max_num_batched_tokens, options.max_model_len),
      sampler_(model.config.vocab_size, sampler_threads()),
      eos_ids_(known_ids(model.config.eos_token_ids, model.config.vocab_size)) {
  logits_rows(options.max_num_seqs, model.config.vocab_size);  // room from the start
  counters_.kv_pages = pages_.total();
}

void EngineCore::accept(std::unique_ptr<Sequence> sequence) {
  const std::scoped_lock lock(mutex_);
  Sequence& accepted = *sequence;
  std::vector<int32_t>& eos_ids = accepted.request.eos_token_ids;
  eos_ids = known_ids(std::move(eos_ids), vocab_size_of(accepted));
  sequences_.emplace(accepted.number, std::move(sequence));
  scheduler_.add(accepted, accepted.arrived);
}

void EngineCore::abort(uint64_t number) {
  if (const auto found = sequences_.find(number); found != sequences_.end()) {
    {
      const std::scoped_lock lock(mutex_);
      end(*found->second, finish_with(FinishReason::kAbort));
    }
    deliver();
  }
}

void EngineCore::abort_all() {
  while (!sequences_.empty()) abort(sequences_.begin()->first);
}

bool EngineCore::step() {
  const auto start = EngineClock::now();
  const Plan* plan = nullptr;
  bool worked = true;
  try {
    plan = &schedule(start);
    worked = !plan->entries.empty() || !plan->failures.empty();
    if (!plan->entries.empty()) {
      run(*plan);
      sample(*plan);
      report(*plan);
    }
  } catch (const Error& error) {
    fail_step(plan, error);
  } catch (const std::exception& error) {
    fail_step(plan, Error(ErrorCode::kInternal, error.what()));
  }
  if (worked) {
    const std::scoped_lock lock(mutex_);
    ++counters_.steps;
    counters_.step_seconds += seconds_since(start, EngineClock::now());
  }
  deliver();
  return worked;
}

// --------------------------------------------------------------------------------------------- the verbs

const Plan& EngineCore::schedule(EngineClock::time_point now) {
  const std::scoped_lock lock(mutex_);
  const Plan& plan = scheduler_.plan(now);
  for (const Plan::Failure& failure : plan.failures) {
    end(*failure.sequence, finish_with(failure.error));
  }
  for (const Plan::Entry& entry : plan.entries) {
    Sequence& sequence = *entry.sequence;
    if (sequence.first_scheduled == EngineClock::time_point()) sequence.first_scheduled = now;
  }
  return plan;
}

void EngineCore::run(const Plan& plan) {
  batch_.token_ids.clear();
  batch_.positions.clear();
  batch_.sequences.clear();
  batch_.groups.clear();
  for (const Plan::Entry& entry : plan.entries) {
    const Sequence& sequence = *entry.sequence;
    const int row_begin = batch_.rows();
    for (int position = sequence.computed; position < sequence.computed + entry.rows; ++position) {
      batch_.token_ids.push_back(sequence.tokens[static_cast<size_t>(position)]);
      batch_.positions.push_back(position);
    }
    batch_.sequences.push_back({row_begin, entry.rows, sequence.computed, sequence.table.pages});
    if (batch_.groups.empty() || batch_.groups.back().adapter != entry.adapter) {
      batch_.groups.push_back({row_begin, row_begin, entry.adapter});
    }
    batch_.groups.back().row_end = batch_.rows();
  }
  forward_.run(batch_, *cache_);
}

void EngineCore::sample(const Plan& plan) {
  sampled_rows_.clear();
  inputs_.clear();
  for (size_t i = 0; i < plan.entries.size(); ++i) {
    const Plan::Entry& entry = plan.entries[i];
    const Sequence& sequence = *entry.sequence;
    const SequenceSpan& span = batch_.sequences[i];
    score_prompt(entry, span.row_begin);
    if (!entry.samples()) continue;
    sampled_rows_.push_back(span.row_begin + span.row_count - 1);
    const auto tokens = std::span(sequence.tokens);
    const auto prompt_size = static_cast<size_t>(sequence.prompt_size);
    inputs_.push_back({.params = &sequence.request.sampling,
                       .prompt = tokens.first(prompt_size),
                       .output = tokens.subspan(prompt_size),
                       .eos_ids = eos_ids_of(sequence),
                       .vocab_size = vocab_size_of(sequence),
                       .key = sequence.sampling_key,
                       .constraint = sequence.request.constraint.get()});
  }
  outputs_.assign(inputs_.size(), {});
  if (inputs_.empty()) return;
  const auto widest = std::ranges::max(inputs_, {}, &SamplingInput::vocab_size).vocab_size;
  const Mat logits = logits_rows(static_cast<int64_t>(inputs_.size()), widest);
  forward_.logits(sampled_rows_, logits);
  sampler_.sample(logits, inputs_, outputs_);
}

/// Only an adapter with an lm_head of its own makes the rows wider than the model's vocabulary.
Mat EngineCore::logits_rows(int64_t rows, int vocab_size) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(vocab_size) * sizeof(float);
  if (logits_buffer_.size() < bytes) logits_buffer_ = HugeBuffer(bytes);
  sampler_.reserve(vocab_size);
  return {logits_buffer_.as<float>(), rows, vocab_size};
}

int EngineCore::vocab_size_of(const Sequence& sequence) const {
  return adapter_vocab_size(sequence.request.adapter, model_.config.vocab_size);
}

std::span<const int32_t> EngineCore::eos_ids_of(const Sequence& sequence) const {
  const std::vector<int32_t>& own = sequence.request.eos_token_ids;
  return own.empty() ? eos_ids_ : own;
}

/// The row at position p tells how likely the prompt's token p + 1 was. What a preempted request has scored
/// before is not scored again.
void EngineCore::score_prompt(const Plan::Entry& entry, int row_begin) {
  Sequence& sequence = *entry.sequence;
  const int top = sequence.request.sampling.prompt_logprobs;
  if (top < 0 || sequence.output_size() > 0) return;  // not wanted, or delivered with the first token
  const auto scored = [&] { return static_cast<int>(sequence.prompt_logprobs.size()); };
  const int end = std::min(sequence.computed + entry.rows + 1, sequence.prompt_size);
  const int most = std::min(kScoredRows, options_.max_num_seqs);
  while (scored() < end) {
    const int count = std::min(end - scored(), most);
    std::vector<int32_t> rows;
    for (int token = scored(); token < scored() + count; ++token) {
      rows.push_back(row_begin + token - 1 - sequence.computed);
    }
    const Mat logits = logits_rows(count, vocab_size_of(sequence));
    forward_.logits(rows, logits);
    scores_.assign(rows.size(), {});
    const auto tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(scored()), rows.size());
    sampler_.logprobs(logits, tokens, top, scores_);
    std::ranges::move(scores_, std::back_inserter(sequence.prompt_logprobs));
  }
  sequence.reuse_prefix = scored() == sequence.prompt_size;
}

void EngineCore::report(const Plan& plan) {
  const auto now = EngineClock::now();
  const std::scoped_lock lock(mutex_);
  size_t sampled = 0;
  for (const Plan::Entry& entry : plan.entries) {
    const bool samples = entry.samples();
    scheduler_.advance(entry);
    if (samples) take_token(*entry.sequence, std::move(outputs_[sampled++]), now);
  }
}

void EngineCore::take_token(Sequence& sequence, TokenOutput output, EngineClock::time_point now) {
  const SamplingParams& params = sequence.request.sampling;
  const int32_t id = output.id;
  Event event;
  if (sequence.output_size() == 0) {
    sequence.first_token = now;
    counters_.prompt_tokens += static_cast<uint64_t>(sequence.prompt_size);
    event.prompt_logprobs = std::exchange(sequence.prompt_logprobs, {});
  }
  sequence.tokens.push_back(id);
  event.tokens.push_back(std::move(output));
  ++counters_.generation_tokens;

  TokenConstraint* constraint = sequence.request.constraint.get();
  const bool may_end = constraint != nullptr ? constraint->may_end() : !params.ignore_eos;
  if (may_end && contains(eos_ids_of(sequence), id)) {
    end(sequence, finish_with(FinishReason::kStop), std::move(event));
  } else if (constraint != nullptr && !constraint->advance(id)) {
    end(sequence, finish_with(no_token_left()), std::move(event));
  } else if (contains(params.stop_token_ids, id)) {
    end(sequence, finish_with_stop_token(id), std::move(event));
  } else if (sequence.size() >= sequence.max_size) {
    end(sequence, finish_with(FinishReason::kLength), std::move(event));
  } else {
    outbox_.push_back({&sequence, nullptr, std::move(event)});
  }
}

// ------------------------------------------------------------------------------------------------- endings

/// With the mutex held.
void EngineCore::end(Sequence& sequence, Finish finish, Event event) {
  if (sequence.ended) return;
  finish.prompt_tokens = sequence.prompt_size;
  finish.cached_tokens = std::max(sequence.cached_tokens, 0);
  finish.completion_tokens = sequence.output_size();
  finish.preemptions = sequence.preemptions;
  finish.times = times_of(sequence);
  event.finish = std::move(finish);

  const auto owner = sequences_.find(sequence.number);
  outbox_.push_back({&sequence, std::move(owner->second), std::move(event)});
  sequences_.erase(owner);
  scheduler_.remove(sequence);
  sequence.ended = true;
}

/// The requests of the step are lost; if there was no plan, the bookkeeping itself is in doubt, and all are.
void EngineCore::fail_step(const Plan* plan, const Error& error) {
  const std::scoped_lock lock(mutex_);
  const Finish failed = finish_with(error);
  if (plan != nullptr) {
    for (const Plan::Entry& entry : plan->entries) end(*entry.sequence, failed);
  } else {
    while (!sequences_.empty()) end(*sequences_.begin()->second, failed);
  }
}

/// Outside the mutex: a sink may call back.
void EngineCore::deliver() {
  for (Delivery& delivery : outbox_) {
    ended_ += delivery.event.finish.has_value();
    const EventSink& sink = delivery.sequence->request.sink;
    try {
      if (sink) sink(std::move(delivery.event));
    } catch (...) {
      // A sink promises not to throw. One that does must not take the other requests with it.
    }
  }
  outbox_.clear();
}

EngineStats EngineCore::stats() const {
  const std::scoped_lock lock(mutex_);
  EngineStats stats = counters_;
  stats.running = scheduler_.running();
  stats.waiting = scheduler_.waiting();
  stats.kv_cache_usage = 1.0 - static_cast<double>(pages_.available()) / pages_.total();
  stats.preemptions = scheduler_.counters().preemptions;
  stats.prefix_cache_queries = scheduler_.counters().prefix_queries;
  stats.prefix_cache_hits = scheduler_.counters().prefix_hits;
  for (const Scheduler::AdapterLoad& load : scheduler_.adapter_loads()) {
    if (load.waits_for_weights) stats.waiting_for_adapter += load.waiting;
    const AdapterLease& adapter = load.example->request.adapter;
    if (adapter == nullptr) continue;
    for (const std::string& name : adapter_names(adapter)) {
      if (load.running > 0) insert_once(stats.running_adapters, name);
      if (load.waiting > 0) insert_once(stats.waiting_adapters, name);
    }
  }
  return stats;
}

}  // namespace polylora
