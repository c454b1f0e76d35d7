#include "serve/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>

#include "serve/call_scanner.h"
#include "serve/stop_strings.h"

namespace polylora {

namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kMaxNameBytes = 256;

/// Ids as clients of vLLM know them. Mistral's templates insist on nine letters and digits.
std::string new_call_id(ToolCallFormat format) {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  if (format != ToolCallFormat::kMistral) return fmt::format("chatcmpl-tool-{:016x}", generator());
  return fmt::format("{:09x}", generator() & 0xF'FFFF'FFFF);
}

struct Syntax {
  std::string_view open;        // before the calls, or before each; may be left out when `at_start`
  std::string_view close;       // after a call
  std::string_view separators;  // single bytes between calls
  bool at_start = false;        // calls only at the start of the output
  bool named = false;           // name{…} is a call too
};

Syntax syntax_of(ToolCallFormat format) {
  switch (format) {
    case ToolCallFormat::kHermes:
      return {.open = "<tool_call>", .close = "</tool_call>", .separators = ""};
    case ToolCallFormat::kLlama3:
      return {.open = "<|python_tag|>", .close = "<|eom_id|>", .separators = ";", .at_start = true};
    case ToolCallFormat::kMistral:
      return {.open = "[TOOL_CALLS]", .close = "", .separators = "[],", .named = true};
    case ToolCallFormat::kList:
      break;
  }
  return {.open = "", .close = "", .separators = "[],", .at_start = true};
}

class FormatParser final : public ToolCallParser {
 public:
  FormatParser(ToolCallFormat format, bool parallel)
      : format_(format), syntax_(syntax_of(format)), parallel_(parallel), open_{std::string(syntax_.open)} {}

  void push(std::string_view text, bool last, std::string& content,
            std::vector<ToolCallDelta>& calls) override {
    held_ += text;
    while (step(last, content, calls)) {
    }
    if (last && !called() && place_ != Place::kContent)
      content += std::exchange(unsure_, {}) + std::exchange(held_, {});
  }

  bool called() const override { return index_ >= 0; }

 private:
  enum class Place : uint8_t { kText, kBetween, kCall, kContent, kOver };

  /// True when there may be more to do with what is held.
  bool step(bool last, std::string& content, std::vector<ToolCallDelta>& calls) {
    switch (place_) {
      case Place::kText:
        return syntax_.at_start ? read_start(last) : read_text(content);
      case Place::kBetween:
        return read_between(last);
      case Place::kCall:
        return read_call(calls);
      case Place::kContent:
        content += std::exchange(held_, {});
        return false;
      case Place::kOver:
        held_.clear();
        return false;
    }
    return false;
  }

  /// Content up to where calls begin.
  bool read_text(std::string& content) {
    const size_t at = held_.find(syntax_.open);
    const size_t end = at != std::string::npos ? at : held_.size() - partial_stop(held_, open_);
    content.append(held_, 0, end);
    held_.erase(0, end);
    if (at == std::string::npos) return false;
    consume(syntax_.open.size());
    place_ = Place::kBetween;
    return true;
  }

  bool read_start(bool last) {
    skip_space();
    if (held_.empty()) return false;
    if (!syntax_.open.empty() && held_.starts_with(syntax_.open)) {
      consume(syntax_.open.size());
    } else if (!last && syntax_.open.starts_with(held_)) {
      return false;
    } else if (held_.front() != '{' && !(format_ == ToolCallFormat::kList && held_.front() == '[')) {
      return give_up();
    }
    place_ = Place::kBetween;
    return true;
  }

  bool read_between(bool last) {
    while (!held_.empty() && (kSpace.find(held_.front()) != kSpace.npos ||
                              syntax_.separators.find(held_.front()) != kSpace.npos)) {
      // Mistral's marker begins like its list does.
      if (held_.front() == '[' && held_.starts_with(syntax_.open) && !syntax_.open.empty()) break;
      if (!last && held_.front() == '[' && syntax_.open.size() > held_.size() &&
          syntax_.open.starts_with(held_))
        return false;
      consume(1);
    }
    if (held_.empty()) return false;
    for (const std::string_view tag : {syntax_.open, syntax_.close}) {
      if (tag.empty()) continue;
      if (held_.starts_with(tag)) {
        consume(tag.size());
        return true;
      }
      if (!last && tag.starts_with(held_)) return false;
    }
    if (held_.front() == '{') {
      scanner_ = {};
      begin_call();
      return true;
    }
    return syntax_.named ? read_name(last) : give_up();
  }

  /// name{…}: made into the object that the scanner reads.
  bool read_name(bool last) {
    const size_t end = held_.find('{');
    const std::string_view name = std::string_view(held_).substr(0, end);
    const bool plain = std::ranges::all_of(name, [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
             c == '-' || c == '.';
    });
    if (!plain || name.size() > kMaxNameBytes) return give_up();
    if (end == std::string::npos) return last && give_up();
    scanner_ = {};
    for (const char byte : fmt::format("{{\"name\":\"{}\",\"arguments\":", name)) scanner_.push(byte);
    bare_ = true;
    consume(end);
    begin_call();
    return true;
  }

  void begin_call() {
    place_ = Place::kCall;
    announced_ = false;
  }

  bool read_call(std::vector<ToolCallDelta>& calls) {
    size_t used = 0;
    CallScanner::State state = CallScanner::State::kReading;
    while (used < held_.size() && state == CallScanner::State::kReading) {
      state = scanner_.push(held_[used++]);
      if (bare_ && state == CallScanner::State::kReading && scanner_.arguments_complete()) {
        state = scanner_.push('}');  // of the object that is not there
      }
    }
    consume(used);
    if (scanner_.has_name()) report(calls);
    if (state == CallScanner::State::kReading) return false;
    bare_ = false;
    if (state == CallScanner::State::kBroken) return give_up();
    place_ = parallel_ ? Place::kBetween : Place::kOver;
    return true;
  }

  void report(std::vector<ToolCallDelta>& calls) {
    ToolCallDelta delta;
    if (!announced_) {
      announced_ = true;
      unsure_.clear();
      delta.id = new_call_id(format_);
      delta.name = scanner_.name();
      ++index_;
    }
    delta.index = index_;
    delta.arguments = scanner_.take_arguments();
    if (delta.id.empty() && delta.arguments.empty()) return;
    std::vector<ToolCallDelta> next;
    next.push_back(std::move(delta));
    append_tool_calls(calls, std::move(next));
  }

  /// What comes is no call. Before any call that makes it content, with what was taken for the beginning of
  /// one.
  bool give_up() {
    place_ = called() ? Place::kOver : Place::kContent;
    held_.insert(0, std::exchange(unsure_, {}));
    return true;
  }

  void skip_space() { consume(std::min(held_.find_first_not_of(kSpace), held_.size())); }

  /// Goes past bytes that are content after all when no call follows.
  void consume(size_t count) {
    if (!called()) unsure_.append(held_, 0, count);
    held_.erase(0, count);
  }

  const ToolCallFormat format_;
  const Syntax syntax_;
  const bool parallel_;
  const std::vector<std::string> open_;
  Place place_ = Place::kText;
  std::string held_;    // not looked at yet
  std::string unsure_;  // looked at, before the first call is certain
  CallScanner scanner_;
  bool announced_ = false, bare_ = false;
  int index_ = -1;
};

class NamedParser final : public ToolCallParser {
 public:
  explicit NamedParser(std::string name) : name_(std::move(name)) {}

  void push(std::string_view text, bool, std::string&, std::vector<ToolCallDelta>& calls) override {
    if (text.empty()) return;
    ToolCallDelta delta;
    if (!std::exchange(called_, true)) {
      delta.id = new_call_id(ToolCallFormat::kList);
      delta.name = name_;
    }
    delta.arguments = text;
    std::vector<ToolCallDelta> next;
    next.push_back(std::move(delta));
    append_tool_calls(calls, std::move(next));
  }
  bool called() const override { return called_; }

 private:
  const std::string name_;
  bool called_ = false;
};

}  // namespace

void append_tool_calls(std::vector<ToolCallDelta>& calls, std::vector<ToolCallDelta>&& next) {
  for (ToolCallDelta& delta : next) {
    if (!calls.empty() && calls.back().index == delta.index) {
      calls.back().arguments += delta.arguments;
    } else {
      calls.push_back(std::move(delta));
    }
  }
}

std::optional<ToolCallFormat> tool_call_format(std::string_view name) {
  if (name == "hermes") return ToolCallFormat::kHermes;
  if (name == "llama3_json") return ToolCallFormat::kLlama3;
  if (name == "mistral") return ToolCallFormat::kMistral;
  return std::nullopt;
}

std::unique_ptr<ToolCallParser> make_tool_call_parser(ToolCallFormat format, bool parallel) {
  return std::make_unique<FormatParser>(format, parallel);
}

std::unique_ptr<ToolCallParser> make_named_call_parser(std::string name) {
  return std::make_unique<NamedParser>(std::move(name));
}

}  // namespace polylora
