#include "serve/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>

#include "serve/api_error.h"

namespace polylora {

namespace {

using Clock = std::chrono::steady_clock;

/// A stream whose client is this far behind gets its next tokens together, once it has caught up.
constexpr size_t kUnsentHighWater = 64 * 1024;
constexpr size_t kMaxRequestIdBytes = 256;

std::string random_id() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return fmt::format("{:016x}", generator());
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// Lives until the answer is complete and the last engine request has ended. All but the sinks runs on the
/// exchange's executor, so there are no locks.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(ServeContext& context, std::shared_ptr<Exchange> exchange, GenerationPlan plan)
      : context_(context),
        exchange_(std::move(exchange)),
        plan_(std::move(plan)),
        base_(*plan_.model.base),
        names_(base_.model.tokenizer, plan_.return_tokens_as_token_ids),
        writer_(plan_.chat ? make_chat_writer(plan_.head, names_)
                           : make_completion_writer(plan_.head, names_)) {
    ++context_.load;
  }
  ~Generation() { --context_.load; }
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  void start() {
    make_choices();
    // The exchange lets go of these once the answer is complete, so the cycle ends there.
    exchange_->on_client_left([self = shared_from_this()] { self->client_left(); });
    exchange_->on_drained([self = shared_from_this()] { self->send_pending(); });
    try {
      for (size_t i = 0; i < choices_.size(); ++i) submit(i);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kUnavailable) context_.metrics.rejected(base_.name());
      answered_ = true;
      cancel_all();
      throw;
    }
  }

 private:
  struct Choice {
    Choice(OutputAssembler the_assembler, size_t the_prompt)
        : assembler(std::move(the_assembler)), prompt(the_prompt) {}
    OutputAssembler assembler;
    std::unique_ptr<ToolCallParser> tools;  // null: all text is content
    size_t prompt;                          // index into plan_.prompts
    uint64_t number = 0;                    // the engine's; 0: not submitted
    ChoiceDelta pending;  // not sent yet; in the end the whole output of a non-streaming choice
    bool chunk_sent = false;
    bool done = false;
    int cached_tokens = 0;
    FinishedRequest finished;
    Clock::time_point last_token;
  };

  void make_choices() {
    for (size_t p = 0; p < plan_.prompts.size(); ++p) {
      OutputOptions output = plan_.output;
      output.echo = plan_.echo ? plan_.prompts[p].text : plan_.echo_prefix;
      if (plan_.echo) output.echo_tokens = plan_.prompts[p].ids;
      for (int i = 0; i < plan_.n; ++i) {
        choices_.emplace_back(OutputAssembler(base_.model.tokenizer, names_, output), p);
        choices_.back().tools = plan_.tool_choice.make_parser();
      }
    }
  }

  void submit(size_t index) {
    Choice& choice = choices_[index];
    const size_t sibling = index % static_cast<size_t>(plan_.n);
    Request request;
    request.prompt = plan_.prompts[choice.prompt].ids;
    request.sampling = plan_.sampling[choice.prompt];
    if (request.sampling.seed) *request.sampling.seed += sibling;  // choices of one seed must differ
    request.adapter = plan_.model.lease;
    request.eos_token_ids = base_.model.eos_token_ids;
    if (plan_.grammar != nullptr) request.constraint = make_constraint(plan_.grammar);
    request.priority = plan_.priority;
    choice.finished.max_tokens = request.sampling.max_tokens;
    // On the engine's thread: note the time, hand over, return.
    request.sink = [self = shared_from_this(), index](Event&& event) {
      self->exchange_->post([self, index, now = Clock::now(), moved = std::move(event)]() mutable {
        self->take(index, std::move(moved), now);
      });
    };
    choice.number = base_.engine.submit(std::move(request));
  }

  void take(size_t index, Event&& event, Clock::time_point now) {
    Choice& choice = choices_[index];
    note_gaps(choice, event, now);
    std::optional<Finish> finish = event.finish;
    if (finish && finish->reason == FinishReason::kError) return fail_choice(choice, *finish);
    const bool was_stopped = choice.assembler.stopped();
    ChoiceDelta delta = choice.assembler.take(std::move(event));
    if (choice.tools != nullptr) take_calls(*choice.tools, delta);
    choice.pending.append(std::move(delta));
    if (choice.assembler.stopped() && !was_stopped && !finish) base_.engine.cancel(choice.number);
    if (finish) {
      if (choice.assembler.stopped()) finish->reason = FinishReason::kStop;
      end_choice(choice, *finish);
    }
    if (!answered_) plan_.stream ? send_pending() : send_whole();
  }

  /// Moves the calls in the delta's text to where they belong.
  void take_calls(ToolCallParser& parser, ChoiceDelta& delta) const {
    parser.push(std::exchange(delta.text, {}), delta.end.has_value(), delta.text, delta.tool_calls);
    // Whoever names the function knows that it will be called: as vLLM, that ends in "stop".
    if (delta.end) delta.end->in_tool_calls = parser.called() && plan_.tool_choice.name.empty();
  }

  void note_gaps(Choice& choice, const Event& event, Clock::time_point now) {
    if (event.tokens.empty() || choice.assembler.stopped()) return;
    if (choice.last_token != Clock::time_point())
      choice.finished.token_gaps.push_back(std::chrono::duration<double>(now - choice.last_token).count());
    choice.last_token = now;
  }

  /// Every engine request comes here exactly once.
  void end_choice(Choice& choice, const Finish& finish) {
    choice.done = true;
    choice.cached_tokens = finish.cached_tokens;
    FinishedRequest& finished = choice.finished;
    finished.model_name = base_.name();
    finished.adapter = plan_.model.adapter;
    finished.reason = finish.reason;
    finished.prompt_tokens = finish.prompt_tokens;
    finished.cached_tokens = finish.cached_tokens;
    finished.completion_tokens = choice.assembler.token_count();
    finished.preemptions = finish.preemptions;
    finished.n = plan_.n;
    finished.times = finish.times;
    context_.metrics.finished(finished);
  }

  void fail_choice(Choice& choice, const Finish& finish) {
    end_choice(choice, finish);
    if (answered_) return;
    answered_ = true;
    cancel_all();
    const Error error =
        finish.error.value_or(Error(ErrorCode::kInternal, "the engine failed without a reason"));
    if (!stream_begun_) return exchange_->respond(error_response(error));
    exchange_->write(server_sent_event(error_body(error)) + server_sent_event("[DONE]"));
    exchange_->end_stream();
  }

  void client_left() {
    answered_ = true;
    cancel_all();
  }

  void cancel_all() {
    for (const Choice& choice : choices_)
      if (choice.number != 0 && !choice.done) base_.engine.cancel(choice.number);
  }

  bool all_done() const { return std::ranges::all_of(choices_, &Choice::done); }

  // --- the whole answer

  void send_whole() {
    if (!all_done()) return;
    answered_ = true;
    std::vector<ReplyPart> parts;
    for (size_t i = 0; i < choices_.size(); ++i) parts.push_back(part(i));
    exchange_->respond(json_answer(writer_->whole(parts, usage())));
  }

  ReplyPart part(size_t index) const {
    const Choice& choice = choices_[index];
    return {static_cast<int>(index), choice.pending, plan_.prompts[choice.prompt].ids};
  }

  Usage usage() const {
    Usage total;
    int cached = 0;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      total.completion_tokens += choice.assembler.token_count();
      if (i % static_cast<size_t>(plan_.n) != 0) continue;  // siblings share their prompt
      total.prompt_tokens += static_cast<int>(plan_.prompts[choice.prompt].ids.size());
      cached += choice.cached_tokens;
    }
    if (context_.options.enable_prompt_tokens_details) total.cached_tokens = cached;
    return total;
  }

  // --- the stream

  /// Sends what is pending, unless the client has enough to read already.
  void send_pending() {
    if (answered_ || !plan_.stream || exchange_->unsent_bytes() > kUnsentHighWater) return;
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (!has_news(choices_[i])) continue;
      if (!stream_begun_) begin_stream();
      send_chunk(i);
    }
    if (all_done()) finish_stream();
  }

  /// Tokens whose text may yet become part of a call are no news.
  static bool has_news(const Choice& choice) {
    return choice.tools != nullptr ? choice.pending.visible() : !choice.pending.empty();
  }

  void begin_stream() {
    stream_begun_ = true;
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers.add("cache-control", "no-cache");
    exchange_->begin_stream(std::move(head));
  }

  void send_chunk(size_t index) {
    Choice& choice = choices_[index];
    if (choice.pending.end) ++ended_choices_;
    ChunkContext chunk;
    chunk.first_of_choice = !choice.chunk_sent;
    chunk.last_of_reply = ended_choices_ == choices_.size() && !plan_.include_usage;
    if (plan_.continuous_usage_stats) chunk.usage = choice_usage(choice);
    exchange_->write(writer_->chunk(part(index), chunk));
    choice.chunk_sent = true;
    choice.pending = {};
  }

  Usage choice_usage(const Choice& choice) const {
    return {static_cast<int>(plan_.prompts[choice.prompt].ids.size()), choice.assembler.token_count(),
            std::nullopt};
  }

  void finish_stream() {
    answered_ = true;
    if (plan_.include_usage) exchange_->write(writer_->usage_chunk(usage()));
    exchange_->write(server_sent_event("[DONE]"));
    exchange_->end_stream();
  }

  ServeContext& context_;
  const std::shared_ptr<Exchange> exchange_;
  const GenerationPlan plan_;
  const ServedBase& base_;
  const TokenNames names_;
  const std::unique_ptr<ResponseWriter> writer_;
  std::vector<Choice> choices_;
  size_t ended_choices_ = 0;  // whose last chunk was sent
  bool stream_begun_ = false;
  bool answered_ = false;  // or there is no one to answer to
};

std::shared_ptr<grammar::CompiledGrammar> compile_grammar(const ServedBase& base,
                                                          const StructuredOutput& wish) {
  try {
    return base.grammars->compile(wish);
  } catch (const RequestError&) {
    throw;
  } catch (const Error& error) {
    throw RequestError(error.code(), fmt::format("structured output: {}", error.what()), "");
  }
}

/// The client's own id where it is one that can be shown in headers and logs.
std::string request_id(const GenerationFields& request, const HttpRequest& http) {
  for (const std::string_view id : {http.headers.get("x-request-id"), std::string_view(request.request_id)})
    if (!id.empty() && id.size() <= kMaxRequestIdBytes) return std::string(id);
  return random_id();
}

}  // namespace

GenerationPlan begin_plan(const ServeContext& context, const GenerationFields& request,
                          const HttpRequest& http, std::string_view id_prefix) {
  GenerationPlan plan;
  plan.model = choose_model(context, request.model, request.adapters);
  plan.n = request.n;
  plan.output.stop = request.stop;
  plan.output.include_stop_str_in_output = request.include_stop_str_in_output;
  plan.output.skip_special_tokens = request.skip_special_tokens;
  plan.output.min_tokens = request.sampling.min_tokens;
  plan.output.logprobs = request.sampling.logprobs >= 0;
  if (request.structured) plan.grammar = compile_grammar(*plan.model.base, *request.structured);
  plan.return_token_ids = request.return_token_ids;
  plan.return_tokens_as_token_ids = request.return_tokens_as_token_ids;
  plan.stream = request.stream;
  plan.include_usage = request.include_usage;
  plan.continuous_usage_stats = request.continuous_usage_stats;
  plan.priority = request.priority;
  plan.head.id = fmt::format("{}{}", id_prefix, request_id(request, http));
  plan.head.created = unix_seconds();
  plan.head.model = plan.model.echoed;
  plan.head.return_token_ids = request.return_token_ids;
  plan.head.prompt_logprobs = request.sampling.prompt_logprobs >= 0;
  return plan;
}

void start_generation(ServeContext& context, const std::shared_ptr<Exchange>& exchange, GenerationPlan plan) {
  std::make_shared<Generation>(context, exchange, std::move(plan))->start();
}

}  // namespace polylora
