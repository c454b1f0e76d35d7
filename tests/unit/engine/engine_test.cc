#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "engine/engine_core.h"
#include "engine/tiny_model.h"

namespace polylora {
namespace {

using std::chrono::milliseconds;
using testing::TempFolder;

/// Forwards everything; throws or waits inside a step when told to.
class TestBackend : public Backend {
 public:
  std::string_view name() const override { return "test"; }
  std::string description() const override { return "test"; }

  std::function<void()> before_embed;

 protected:
  using Spans = std::span<const SequenceSpan>;
  std::unique_ptr<Weight> do_pack_weight(const WeightSource& s, WeightFormat f) override {
    return inner_->pack_weight(s, f);
  }
  std::unique_ptr<LoraWeight> do_pack_lora(const LoraSource& s, DType d) override {
    return inner_->pack_lora(s, d);
  }
  std::unique_ptr<KvCache> do_make_kv_cache(const KvCacheShape& s) override {
    return inner_->make_kv_cache(s);
  }
  void do_embed(Mat y, const Weight& w, std::span<const int32_t> ids) override {
    if (before_embed) before_embed();
    inner_->embed(y, w, ids);
  }
  void do_rmsnorm(Mat y, Mat sum, ConstMat x, ConstMat delta, std::span<const float> gain,
                  float eps) override {
    inner_->rmsnorm(y, sum, x, delta, gain, eps);
  }
  void do_linear(Mat y, ConstMat x, const Weight& w, std::span<const float> bias,
                 std::span<const LoraGroup> groups) override {
    inner_->linear(y, x, w, bias, groups);
  }
  void do_lora_delta(Mat y, ConstMat x, std::span<const LoraGroup> groups) override {
    inner_->lora_delta(y, x, groups);
  }
  void do_rope(Mat q, Mat k, int head_dim, std::span<const int32_t> positions, RopeTable table) override {
    inner_->rope(q, k, head_dim, positions, table);
  }
  void do_kv_write(KvCache& cache, int layer, ConstMat k, ConstMat v, Spans spans) override {
    inner_->kv_write(cache, layer, k, v, spans);
  }
  void do_attention(Mat o, Mat lse, ConstMat q, const KvCache& cache, int layer, Spans spans,
                    const AttentionParams& params) override {
    inner_->attention(o, lse, q, cache, layer, spans, params);
  }
  void do_glu(Mat y, ConstMat gate_up, GluActivation activation) override {
    inner_->glu(y, gate_up, activation);
  }
  void do_softcap(Mat y, float cap) override { inner_->softcap(y, cap); }
  void do_add(Mat y, ConstMat x) override { inner_->add(y, x); }
  void do_gather_rows(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    inner_->gather_rows(y, x, rows, scales);
  }
  void do_scatter_add(Mat y, ConstMat x, std::span<const int32_t> rows,
                      std::span<const float> scales) override {
    inner_->scatter_add(y, x, rows, scales);
  }
  void do_clear(Mat y) override { inner_->clear(y); }
  Routing do_route(ConstMat logits, const RouterParams& params) override {
    return inner_->route(logits, params);
  }
  void do_scale_columns(Mat y, std::span<const float> gain, std::span<const float> shift) override {
    inner_->scale_columns(y, gain, shift);
  }

 private:
  const std::unique_ptr<Backend> inner_ = make_backend({.name = "cpu", .threads = 1});
};

/// Collects what a request got.
struct Reply {
  std::vector<int32_t> ids;
  std::vector<TokenLogprob> logprobs;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  std::optional<Finish> finish;
  int terminal_events = 0;
};

class Replies {
 public:
  explicit Replies(size_t count) : replies_(count) {}

  EventSink sink(size_t index) {
    return [this, index](Event&& event) {
      const std::scoped_lock lock(mutex_);
      Reply& reply = replies_[index];
      for (TokenOutput& token : event.tokens) {
        reply.ids.push_back(token.id);
        reply.logprobs.insert(reply.logprobs.end(), token.logprobs.begin(), token.logprobs.end());
      }
      if (!event.prompt_logprobs.empty()) reply.prompt_logprobs = std::move(event.prompt_logprobs);
      if (event.finish) {
        reply.finish = std::move(event.finish);
        ++reply.terminal_events;
        ++ended_;
      }
      changed_.notify_all();
    };
  }
  bool wait_until(const std::function<bool()>& done) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(120), done);
  }
  bool wait_all() {
    return wait_until([this] { return ended_ == replies_.size(); });
  }
  const Reply& operator[](size_t index) const { return replies_[index]; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Reply> replies_;
  size_t ended_ = 0;
};

void expect_same(const std::vector<TokenLogprob>& a, const std::vector<TokenLogprob>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].id, b[i].id);
    EXPECT_EQ(a[i].logprob, b[i].logprob) << "not bit-identical";
    EXPECT_EQ(a[i].rank, b[i].rank);
  }
}

void expect_same(const Reply& a, const Reply& b) {
  EXPECT_EQ(a.ids, b.ids);
  expect_same(a.logprobs, b.logprobs);
  ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
  for (size_t i = 0; i < a.prompt_logprobs.size(); ++i)
    expect_same(a.prompt_logprobs[i], b.prompt_logprobs[i]);
  ASSERT_TRUE(a.finish && b.finish);
  EXPECT_EQ(a.finish->reason, b.finish->reason);
  EXPECT_FALSE(a.finish->error) << a.finish->error->what();
  EXPECT_FALSE(b.finish->error) << b.finish->error->what();
  EXPECT_EQ(a.finish->stop_token_id, b.finish->stop_token_id);
}

class EngineTest : public ::testing::Test {
 protected:
  static constexpr int kAdapters = 16;

  EngineTest() {
    for (unsigned i = 0; i < kAdapters; ++i) {
      registry_.add("a" + std::to_string(i),
                    testing::write_adapter(folder_ / std::to_string(i), i, 1 + i % 5),
                    i % 2 ? AdapterRegistry::LoadMode::kLazy : AdapterRegistry::LoadMode::kNow, false);
    }
  }

  static EngineOptions options(int pages = 512) {
    EngineOptions o;
    o.kv_cache_bytes = static_cast<size_t>(pages) * 2 * 2 * kKvPageSize * 16 * 2;
    return o;
  }

  Request request(std::vector<int32_t> prompt, int max_tokens, const std::string& adapter = {}) {
    Request r;
    r.prompt = std::move(prompt);
    r.sampling.temperature = 0;
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    if (!adapter.empty()) r.adapter = registry_.lease(adapter);
    return r;
  }

  AdapterLease stack(const std::vector<std::pair<std::string, float>>& members) {
    std::vector<StackTerm> terms;
    for (const auto& [name, weight] : members) terms.push_back({registry_.lease(name), weight});
    return registry_.stack(terms);
  }

  /// Requests of every kind; prompts share prefixes within and across adapters.
  std::vector<Request> mixed_requests(int count) {
    std::mt19937 random(5);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    std::vector<Request> requests;
    for (int i = 0; i < count; ++i) {
      std::vector<int32_t> prompt;
      const int shared = below(3) * 20, length = shared + 1 + below(70);
      for (int p = 0; p < length; ++p) prompt.push_back(p < shared ? 5 + p : 3 + below(150));
      Request r =
          request(std::move(prompt), 1 + below(40), i % 4 == 0 ? "" : "a" + std::to_string(below(kAdapters)));
      if (i % 7 == 3)
        r.adapter =
            stack({{"a" + std::to_string(below(4)), 0.7f}, {"a" + std::to_string(4 + below(4)), -1.0f}});
      r.sampling.ignore_eos = below(2) == 0;
      if (below(2) == 0) {
        r.sampling.temperature = 1.1f;
        r.sampling.seed = static_cast<uint64_t>(below(1000));
        r.sampling.top_p = below(2) ? 0.9f : 1.0f;
        r.sampling.top_k = below(2) * 20;
        r.sampling.repetition_penalty = below(3) == 0 ? 1.2f : 1.0f;
      }
      if (below(2) == 0) r.sampling.logprobs = below(4);
      if (below(5) == 0) r.sampling.prompt_logprobs = below(3);
      if (below(4) == 0) r.sampling.stop_token_ids = {below(160)};
      requests.push_back(std::move(r));
    }
    return requests;
  }

  std::vector<Reply> run_alone(const std::vector<Request>& requests, DType kv_dtype = DType::kBf16) {
    std::vector<Reply> replies;
    for (const Request& r : requests) {
      EngineOptions o = options();
      o.enable_prefix_caching = false;
      o.kv_cache_dtype = kv_dtype;
      Engine engine(model_, backend_, registry_, o);
      replies.push_back(run_one(engine, r));
    }
    return replies;
  }
  static Reply run_one(Engine& engine, Request request) {
    Replies replies(1);
    request.sink = replies.sink(0);
    engine.submit(std::move(request));
    EXPECT_TRUE(replies.wait_all());
    return replies[0];
  }

  /// All at once from two threads, against their replies alone.
  EngineStats run_together(const EngineOptions& o, const std::vector<Request>& requests,
                           const std::vector<Reply>& alone) {
    Replies replies(requests.size());
    Engine engine(model_, backend_, registry_, o);
    const auto submit_half = [&](size_t parity) {
      std::mt19937 random(static_cast<unsigned>(parity));
      for (size_t i = parity; i < requests.size(); i += 2) {
        Request r = requests[i];
        r.sink = replies.sink(i);
        engine.submit(std::move(r));
        if (random() % 4 == 0) std::this_thread::sleep_for(milliseconds(random() % 3));
      }
    };
    std::thread other([&] { submit_half(1); });
    submit_half(0);
    other.join();
    EXPECT_TRUE(replies.wait_all());
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE("request " + std::to_string(i));
      expect_same(replies[i], alone[i]);
      EXPECT_EQ(replies[i].terminal_events, 1);
    }
    return engine.stats();
  }

  TestBackend backend_;
  const Model model_ = testing::tiny_model(backend_);
  const TempFolder folder_;
  AdapterRegistry registry_{{{.model = &model_}}, backend_, {.memory_bytes = 1 << 22}};
};

TEST_F(EngineTest, AdaptersMatter) {
  Engine engine(model_, backend_, registry_, options());
  const std::vector<int32_t> prompt = {5, 6, 7, 8};
  const Reply base = run_one(engine, request(prompt, 20));
  const Reply first = run_one(engine, request(prompt, 20, "a1"));
  const Reply second = run_one(engine, request(prompt, 20, "a2"));
  EXPECT_NE(base.ids, first.ids);
  EXPECT_NE(first.ids, second.ids);
  EXPECT_EQ(first.ids, run_one(engine, request(prompt, 20, "a1")).ids);
}

TEST_F(EngineTest, AStackAddsEachMemberTimesItsWeight) {
  const auto halved = testing::write_adapter(folder_ / "halved", 3, 4);
  std::ofstream(halved / "adapter_config.json") << R"({"peft_type":"LORA","r":4,"lora_alpha":4})";
  registry_.add("halved", halved, AdapterRegistry::LoadMode::kNow, false);
  Engine engine(model_, backend_, registry_, options());
  const auto ask = [&](const AdapterLease& adapter) {
    Request r = request({5, 6, 7, 8}, 20);
    r.sampling.logprobs = 3;
    r.adapter = adapter;
    return run_one(engine, std::move(r));
  };
  const Reply one = ask(registry_.lease("a3")), half = ask(registry_.lease("halved"));
  expect_same(ask(stack({{"a3", 0.5f}})), half);
  expect_same(ask(stack({{"a3", 1.0f}, {"a4", 0.0f}})), one);
  expect_same(ask(stack({{"a3", 0.25f}, {"a4", 0.0f}, {"halved", 0.5f}})), half);
  EXPECT_NE(ask(stack({{"a3", 1.0f}, {"a4", 1.0f}})).ids, one.ids);
}

TEST_F(EngineTest, ARequestMayBringItsOwnEndTokens) {
  Engine engine(model_, backend_, registry_, options());
  Request r = request({5, 6, 7, 8}, 20);
  const Reply all = run_one(engine, r);
  r.sampling.ignore_eos = false;
  r.eos_token_ids = {all.ids[4]};
  const Reply ended = run_one(engine, r);
  EXPECT_EQ(ended.finish->reason, FinishReason::kStop);
  EXPECT_LE(ended.ids.size(), 5u);
  EXPECT_EQ(ended.ids.back(), all.ids[4]);
  r.sampling.min_tokens = 3;  // end tokens are masked: ids without a logit must not be
  r.sampling.ignore_eos = true;
  r.eos_token_ids = {1 << 30, -7};
  EXPECT_EQ(run_one(engine, r).finish->reason, FinishReason::kLength);
}

TEST_F(EngineTest, RepliesAreBitIdenticalAloneAndTogether) {
  const std::vector<Request> requests = mixed_requests(64);
  const std::vector<Reply> alone = run_alone(requests);
  for (const int budget : {64, 7, 300}) {
    SCOPED_TRACE("row budget " + std::to_string(budget));
    EngineOptions o = options();
    o.max_num_batched_tokens = budget;
    o.max_num_seqs = std::min(budget, 48);
    o.max_loras = budget == 300 ? 3 : 0;
    const EngineStats stats = run_together(o, requests, alone);
    EXPECT_GT(stats.prefix_cache_hits, 0u);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(stats.kv_cache_usage, 0);
  }
}

TEST_F(EngineTest, EnginesOfOneBackendComputeInTurns) {
  const std::vector<Request> requests = mixed_requests(16);
  const std::vector<Reply> alone = run_alone(requests);
  std::atomic<int> computing{0};
  std::atomic<bool> overlapped{false};
  backend_.before_embed = [&] {
    if (++computing != 1) overlapped = true;
    std::this_thread::sleep_for(milliseconds(1));
    --computing;
  };
  const auto turns = std::make_shared<ComputeTurns>();
  Engine first(model_, backend_, registry_, options(), turns),
      second(model_, backend_, registry_, options(), turns);
  Replies to_first(requests.size()), to_second(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    for (auto& [engine, replies] : {std::pair(&first, &to_first), std::pair(&second, &to_second)}) {
      Request r = requests[i];
      r.sink = replies->sink(i);
      engine->submit(std::move(r));
    }
  }
  EXPECT_TRUE(to_first.wait_all());
  EXPECT_TRUE(to_second.wait_all());
  backend_.before_embed = nullptr;
  EXPECT_FALSE(overlapped);
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(to_first[i], alone[i]);
    expect_same(to_second[i], alone[i]);
  }
}

TEST_F(EngineTest, AnInt8KvCacheHoldsMorePagesAndChangesNoRule) {
  const std::vector<Request> requests = mixed_requests(32);
  EngineOptions o = options();
  o.kv_cache_dtype = DType::kI8;
  o.max_num_batched_tokens = 50;
  o.max_num_seqs = 24;
  const EngineStats stats = run_together(o, requests, run_alone(requests, DType::kI8));
  EXPECT_GT(stats.prefix_cache_hits, 0u);
  EXPECT_EQ(stats.kv_pages, 512 * 16 / 12);  // head_dim 8: 16 bytes become 8 and a scale
}

TEST_F(EngineTest, PreemptedRepliesAreBitIdentical) {
  std::vector<Request> requests = mixed_requests(40);
  for (Request& r : requests) {  // every one grows by five pages, far beyond what admission leaves free
    r.sampling.max_tokens = 80;
    r.sampling.ignore_eos = true;
    r.sampling.stop_token_ids.clear();
  }
  const std::vector<Reply> alone = run_alone(requests);
  EngineOptions o = options(18);
  o.max_num_batched_tokens = 64;
  o.max_num_seqs = 16;
  o.max_adapter_wait_s = 0.02;  // displacement as well
  EXPECT_GT(run_together(o, requests, alone).preemptions, 0u);
}

TEST_F(EngineTest, ASmallAdapterBudgetOnlyCostsTime) {
  AdapterRegistry small({{.model = &model_}}, backend_, {.memory_bytes = 1 << 22, .max_cpu_loras = 2});
  const std::vector<int32_t> prompt = {9, 8, 7};
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 6; ++i) {
    Engine engine(model_, backend_, registry_, options());
    expected.push_back(run_one(engine, request(prompt, 30, "a" + std::to_string(i))).ids);
    small.add("a" + std::to_string(i), folder_ / std::to_string(i), AdapterRegistry::LoadMode::kLazy, false);
  }
  Replies replies(24);
  EngineOptions o = options();
  o.max_adapter_wait_s = 0.01;
  Engine engine(model_, backend_, small, o);
  for (size_t i = 0; i < 24; ++i) {
    Request r = request(prompt, 30);
    r.adapter = small.lease("a" + std::to_string(i % 6));
    r.sink = replies.sink(i);
    engine.submit(std::move(r));
  }
  ASSERT_TRUE(replies.wait_all());
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(replies[i].ids, expected[i % 6]);
  EXPECT_LE(small.resident_count(), 2);
}

TEST_F(EngineTest, ARunningRequestKeepsItsGenerationThroughReloadAndUnload) {
  Engine engine(model_, backend_, registry_, options());
  const Reply before = run_one(engine, request({5, 6, 7}, 60, "a0"));
  Replies replies(2);
  Request running = request({5, 6, 7}, 60, "a0");
  running.sink = replies.sink(0);
  engine.submit(std::move(running));
  registry_.add("a0", testing::write_adapter(folder_ / "0", 1234), AdapterRegistry::LoadMode::kNow, true);
  Request fresh = request({5, 6, 7}, 60, "a0");
  fresh.sink = replies.sink(1);
  engine.submit(std::move(fresh));
  registry_.remove("a0");
  ASSERT_TRUE(replies.wait_all());
  EXPECT_EQ(replies[0].ids, before.ids);
  EXPECT_NE(replies[1].ids, before.ids) << "the prefix cache must not serve the old generation";
}

TEST_F(EngineTest, AnAdapterThatCannotBeReadFailsItsRequestsOnly) {
  registry_.add("broken", testing::write_adapter(folder_ / "broken", 50), AdapterRegistry::LoadMode::kLazy,
                false);
  std::filesystem::remove(folder_ / "broken/adapter_model.safetensors");
  Engine engine(model_, backend_, registry_, options());
  Replies replies(3);
  for (size_t i = 0; i < 3; ++i) {
    Request r = request({5, 6}, 5, i < 2 ? "broken" : "a3");
    r.sink = replies.sink(i);
    engine.submit(std::move(r));
  }
  ASSERT_TRUE(replies.wait_all());
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(replies[i].finish->reason, FinishReason::kError);
    EXPECT_EQ(replies[i].finish->error->code(), ErrorCode::kNotFound);
  }
  EXPECT_EQ(replies[2].finish->reason, FinishReason::kLength);
}

TEST_F(EngineTest, EndsForTheRightReason) {
  Engine engine(model_, backend_, registry_, options());
  const Reply greedy = run_one(engine, request({5, 6, 7}, 12));
  EXPECT_EQ(greedy.finish->reason, FinishReason::kLength);
  EXPECT_EQ(greedy.finish->completion_tokens, 12);
  EXPECT_EQ(greedy.finish->prompt_tokens, 3);
  EXPECT_GE(greedy.finish->times.queued, 0);
  EXPECT_GE(greedy.finish->times.first_token, greedy.finish->times.queued);
  EXPECT_GE(greedy.finish->times.finished, greedy.finish->times.first_token);

  Request stopping = request({5, 6, 7}, 12);
  stopping.sampling.stop_token_ids = {greedy.ids[4]};
  const Reply stopped = run_one(engine, stopping);
  EXPECT_EQ(stopped.finish->reason, FinishReason::kStop);
  EXPECT_EQ(stopped.finish->stop_token_id, greedy.ids[4]);
  stopping.sampling.min_tokens = 12;
  EXPECT_EQ(run_one(engine, stopping).ids.size(), 12u);

  Request eos = request({5, 6, 7}, 12);
  eos.sampling.ignore_eos = false;
  eos.sampling.logit_bias = {{2, 100.0f}};
  const Reply ended = run_one(engine, eos);
  EXPECT_EQ(ended.ids, std::vector<int32_t>{2});
  EXPECT_EQ(ended.finish->reason, FinishReason::kStop);
  EXPECT_FALSE(ended.finish->stop_token_id);

  const Reply full = run_one(engine, request(std::vector<int32_t>(250, 7), 1000));
  EXPECT_EQ(full.finish->reason, FinishReason::kLength);
  EXPECT_EQ(full.ids.size(), 6u) << "the context is full";
}

TEST_F(EngineTest, RefusesSenselessRequestsAndOptions) {
  Engine engine(model_, backend_, registry_, options());
  const auto message = [&](const std::function<void(Request&)>& change) {
    Request r = request({5, 6}, 5);
    change(r);
    try {
      engine.submit(std::move(r));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message([](Request& r) { r.prompt.clear(); }), "The decoder prompt cannot be empty");
  EXPECT_EQ(
      message([](Request& r) { r.prompt.assign(256, 5); }),
      "This model's maximum context length is 256 tokens. However, you requested 261 tokens (256 in the "
      "messages, 5 in the completion). Please reduce the length of the messages or completion.");
  EXPECT_EQ(message([](Request& r) { r.prompt = {160}; }), "Token id 160 is out of vocabulary");
  EXPECT_EQ(message([](Request& r) { r.sampling.top_p = 0; }), "top_p must be in (0, 1], got 0.");
  EXPECT_EQ(message([](Request& r) { r.sampling.temperature = std::nanf(""); }),
            "temperature must be non-negative, got nan.");
  EXPECT_NE(message([](Request& r) { r.sampling.logit_bias = {{-1, 0.f}}; }), "accepted");
  EXPECT_NE(message([](Request& r) { r.sampling.bad_words_token_ids = {{999}}; }), "accepted");

  EngineOptions small = options(3);
  EXPECT_THROW(Engine(model_, backend_, registry_, small), Error);
  EngineOptions contradictory = options();
  contradictory.max_num_batched_tokens = 8;
  EXPECT_THROW(Engine(model_, backend_, registry_, contradictory), Error);
}

TEST_F(EngineTest, CancelsInEveryState) {
  EngineOptions o = options();
  o.max_num_seqs = 1;
  Replies replies(3);
  Engine engine(model_, backend_, registry_, o);
  std::vector<uint64_t> numbers;
  for (size_t i = 0; i < 3; ++i) {
    Request r = request({5, 6, 7}, 250);
    r.sampling.temperature = 1;
    r.sink = replies.sink(i);
    numbers.push_back(engine.submit(std::move(r)));
  }
  engine.cancel(numbers[2]);  // waiting, or not even that
  engine.cancel(999);
  ASSERT_TRUE(replies.wait_until([&] { return replies[0].ids.size() > 3 || replies[0].finish; }));
  engine.cancel(numbers[0]);  // running
  engine.cancel(numbers[0]);
  ASSERT_TRUE(replies.wait_all());
  engine.cancel(numbers[1]);  // ended
  engine.drain(milliseconds(1000));
  EXPECT_EQ(replies[2].finish->reason, FinishReason::kAbort);
  EXPECT_EQ(replies[1].finish->reason, FinishReason::kLength);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(replies[i].terminal_events, 1);
  EXPECT_EQ(engine.stats().kv_cache_usage, 0);
}

TEST_F(EngineTest, DrainFinishesOrAbortsAndThenRefuses) {
  for (const bool patient : {true, false}) {
    Replies replies(20);
    Engine engine(model_, backend_, registry_, options());
    for (size_t i = 0; i < 20; ++i) {
      Request r = request({5, 6, 7}, 200, "a" + std::to_string(i % 3));
      r.sink = replies.sink(i);
      engine.submit(std::move(r));
    }
    engine.drain(patient ? milliseconds(60000) : milliseconds(0));
    for (size_t i = 0; i < 20; ++i) {
      ASSERT_EQ(replies[i].terminal_events, 1);
      if (patient) {
        EXPECT_EQ(replies[i].finish->reason, FinishReason::kLength);
      }
    }
    EXPECT_THROW(engine.submit(request({5}, 5)), Error);
  }
}

TEST_F(EngineTest, DestructionEndsEveryRequest) {
  Replies replies(30);
  {
    Engine engine(model_, backend_, registry_, options());
    for (size_t i = 0; i < 30; ++i) {
      Request r = request({5, 6, 7}, 200, "a" + std::to_string(i % 5));
      r.sink = replies.sink(i);
      engine.submit(std::move(r));
    }
  }
  for (size_t i = 0; i < 30; ++i) EXPECT_EQ(replies[i].terminal_events, 1);
}

TEST_F(EngineTest, AFailingStepEndsItsRequestsAndTheEngineLivesOn) {
  std::atomic<bool> broken{true};
  backend_.before_embed = [&] {
    if (broken) throw Error(ErrorCode::kInternal, "the kernel broke");
  };
  Engine engine(model_, backend_, registry_, options());
  const Reply failed = run_one(engine, request({5, 6, 7}, 5));
  EXPECT_EQ(failed.finish->reason, FinishReason::kError);
  EXPECT_STREQ(failed.finish->error->what(), "the kernel broke");
  EXPECT_EQ(failed.terminal_events, 1);
  broken = false;
  EXPECT_EQ(run_one(engine, request({5, 6, 7}, 5)).finish->reason, FinishReason::kLength);
  EXPECT_EQ(engine.stats().kv_cache_usage, 0);
}

TEST_F(EngineTest, AFullQueueRefuses) {
  std::atomic<bool> blocked{true};
  backend_.before_embed = [&] {
    while (blocked) std::this_thread::sleep_for(milliseconds(1));
  };
  EngineOptions o = options();
  o.max_num_queued_reqs = 4;
  o.max_num_seqs = 1;
  Replies replies(5);
  Engine engine(model_, backend_, registry_, o);
  size_t accepted = 0;
  try {
    for (; accepted < 100; ++accepted) {
      Request r = request({5, 6}, 3);
      if (accepted < 5) r.sink = replies.sink(accepted);
      engine.submit(std::move(r));
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  }
  EXPECT_GE(accepted, 4u);
  EXPECT_LE(accepted, 5u) << "four wait, one may run";
  blocked = false;
}

TEST_F(EngineTest, StatsNameTheAdapters) {
  std::atomic<bool> blocked{true};
  backend_.before_embed = [&] {
    while (blocked) std::this_thread::sleep_for(milliseconds(1));
  };
  EngineOptions o = options();
  o.max_loras = 1;
  Replies replies(2);
  Engine engine(model_, backend_, registry_, o);
  for (size_t i = 0; i < 2; ++i) {
    Request r = request({5, 6}, 3, i == 0 ? "a0" : "a2");
    r.sink = replies.sink(i);
    engine.submit(std::move(r));
    while (engine.stats().running == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.running, 1);
  EXPECT_EQ(stats.waiting, 1);
  EXPECT_EQ(stats.running_adapters, std::vector<std::string>{"a0"});
  EXPECT_GT(stats.kv_cache_usage, 0);
  blocked = false;
  ASSERT_TRUE(replies.wait_all());
}

}  // namespace
}  // namespace polylora
