#include "cli/chat_session.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "text/stream_decoder.h"

namespace polylora {
namespace {

/// Carries events from the engine's thread to the session's.
class EventQueue {
 public:
  void push(Event&& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    ready_.notify_one();
  }

  Event pop() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return !events_.empty(); });
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Event> events_;
};

nlohmann::ordered_json message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

AnswerStats stats_of(const Finish& finish) {
  return {finish.reason, finish.completion_tokens, finish.times.finished - finish.times.first_token};
}

}  // namespace

ChatSession::ChatSession(ChatParts parts, SamplingParams sampling, std::string system)
    : parts_(std::move(parts)), sampling_(std::move(sampling)), system_(std::move(system)) {
  reset();
}

Request ChatSession::make_request() const {
  ChatTemplate::Options options;
  options.bos_token = parts_.bos_token;
  options.eos_token = parts_.eos_token;
  options.has_bos = !parts_.bos_token.empty();
  options.has_eos = !parts_.eos_token.empty();

  Request request;
  request.prompt = parts_.tokenizer.encode(parts_.chat_template.render(messages_, options), false);
  request.sampling = sampling_;
  const int room = parts_.max_model_len - static_cast<int>(request.prompt.size());
  if (room <= 0) {
    fail(ErrorCode::kResourceExhausted,
         "the conversation has {} tokens and the context {}; /reset starts a new one", request.prompt.size(),
         parts_.max_model_len);
  }
  const int wanted = sampling_.max_tokens;
  request.sampling.max_tokens = wanted > 0 ? std::min(wanted, room) : room;
  if (!adapter_.empty()) request.adapter = parts_.registry.lease(adapter_);
  return request;
}

AnswerStats ChatSession::ask(const std::string& text, const std::function<void(std::string_view)>& print) {
  const nlohmann::ordered_json before = messages_;
  try {
    messages_.push_back(message("user", text));
    const auto events = std::make_shared<EventQueue>();
    Request request = make_request();
    request.sink = [events](Event&& event) { events->push(std::move(event)); };
    running_ = parts_.engine.submit(std::move(request)) + 1;

    StreamDecoder decoder(parts_.tokenizer, /*skip_special_tokens=*/true);
    std::string answer;
    const auto emit = [&](const std::string& piece) {
      answer += piece;
      print(piece);
    };
    for (;;) {
      const Event event = events->pop();
      for (const TokenOutput& token : event.tokens) emit(decoder.push(token.id));
      if (!event.finish) continue;
      running_ = 0;
      if (event.finish->error) throw Error(*event.finish->error);
      emit(decoder.flush());
      messages_.push_back(message("assistant", answer));
      return stats_of(*event.finish);
    }
  } catch (const Error&) {
    messages_ = before;
    throw;
  }
}

bool ChatSession::interrupt() {
  const uint64_t number = running_;
  if (number != 0) parts_.engine.cancel(number - 1);
  return number != 0;
}

void ChatSession::use_adapter(const std::string& name) {
  if (!name.empty() && parts_.registry.lease(name) == nullptr) {
    fail(ErrorCode::kNotFound, "there is no adapter '{}'; /loras lists them", name);
  }
  adapter_ = name;
}

void ChatSession::set_system(std::string text) {
  system_ = std::move(text);
  reset();
}

void ChatSession::reset() {
  messages_ = nlohmann::ordered_json::array();
  if (!system_.empty()) messages_.push_back(message("system", system_));
}

}  // namespace polylora
