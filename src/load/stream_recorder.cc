#include "load/stream_recorder.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/utf8.h"

namespace polylora {
namespace {

using nlohmann::json;

constexpr size_t kMaxQuote = 300;  // bytes of a foreign message in ours

std::string one_line(std::string_view text) {
  std::string line = to_valid_utf8(text.substr(0, kMaxQuote));
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return line + (text.size() > kMaxQuote ? "…" : "");
}

const json* find(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

int token_count(const json& usage, const char* key) {
  const json* value = find(usage, key);
  constexpr uint64_t kMost = 1 << 30;
  return value != nullptr && value->is_number_unsigned() && value->get<uint64_t>() <= kMost
             ? value->get<int>()
             : 0;
}

/// The text of a choice: `text`, or `delta.content`. Empty when there is none.
std::string_view choice_text(const json& choice) {
  const json* holder = find(choice, "delta");
  const bool chat = holder != nullptr && holder->is_object();
  const json* text = chat ? find(*holder, "content") : find(choice, "text");
  return text != nullptr && text->is_string() ? std::string_view(text->get_ref<const std::string&>())
                                              : std::string_view();
}

std::string message_of(const json& error) {
  const json* message = error.is_object() ? find(error, "message") : &error;
  if (message == nullptr) message = &error;
  return one_line(message->is_string() ? message->get_ref<const std::string&>()
                                       : message->dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace

std::string describe_error(std::string_view body) {
  const json parsed = json::parse(body, nullptr, false);
  if (parsed.is_object()) {
    if (const json* error = find(parsed, "error")) return message_of(*error);
    if (const json* message = find(parsed, "message")) return message_of(*message);
  }
  return one_line(body);
}

StreamRecorder::StreamRecorder(RequestRecord& record, bool keep_text)
    : record_(record), keep_text_(keep_text), events_([this](std::string_view data) { on_event(data); }) {}

void StreamRecorder::feed(std::string_view bytes, double now_s) {
  now_s_ = now_s;
  events_.feed(bytes);
}

void StreamRecorder::finish() {
  events_.finish();
  if (pieces_ == 0) fail(ErrorCode::kDataCorrupt, "the stream ended without any output");
  if (!complete_) fail(ErrorCode::kDataCorrupt, "the stream broke off after {} pieces of output", pieces_);
  if (!counted_) record_.output_tokens = pieces_;
  record_.success = true;
}

void StreamRecorder::on_event(std::string_view data) {
  if (data == "[DONE]") {
    complete_ = true;
    return;
  }
  const json chunk = json::parse(data, nullptr, false);
  if (!chunk.is_object()) fail(ErrorCode::kDataCorrupt, "an event is no JSON object: '{}'", one_line(data));
  if (const json* error = find(chunk, "error")) fail(ErrorCode::kUnavailable, "{}", message_of(*error));
  if (const json* usage = find(chunk, "usage"); usage != nullptr && usage->is_object()) {
    record_.output_tokens = token_count(*usage, "completion_tokens");
    counted_ = record_.output_tokens > 0;
    if (const int prompt = token_count(*usage, "prompt_tokens"); prompt > 0) record_.prompt_tokens = prompt;
  }
  const json* choices = find(chunk, "choices");
  if (choices == nullptr || !choices->is_array() || choices->empty() || !choices->front().is_object()) return;
  const json& choice = choices->front();
  const bool last = find(choice, "finish_reason") != nullptr;
  complete_ |= last;
  const std::string_view text = choice_text(choice);
  if (keep_text_) record_.text += text;
  if (is_output(choice, text, last)) on_piece();
}

/// Tokens may have no text (special ones, parts of a character). But a role alone is sent before any token,
/// and some servers send the finish reason after the last one.
bool StreamRecorder::is_output(const json& choice, std::string_view text, bool last) const {
  if (!text.empty()) return true;
  if (last) return pieces_ == 0;
  const json* delta = find(choice, "delta");
  return delta == nullptr || !delta->is_object() || find(*delta, "role") == nullptr;
}

void StreamRecorder::on_piece() {
  if (pieces_++ == 0) {
    record_.ttft_s = now_s_;
  } else {
    record_.itl_s.push_back(now_s_ - record_.latency_s);
  }
  record_.latency_s = now_s_;
}

}  // namespace polylora
