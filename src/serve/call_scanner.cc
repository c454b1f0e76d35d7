#include "serve/call_scanner.h"

#include <utility>

#include "serve/json_body.h"

namespace polylora {

namespace {

constexpr size_t kMaxKeyBytes = 1024;
constexpr std::string_view kSpace = " \t\r\n";

bool is_space(char byte) {
  return kSpace.find(byte) != std::string_view::npos;
}

}  // namespace

CallScanner::State CallScanner::push(char byte) {
  if (in_string_) {
    push_string(byte);
  } else if (place_ == Place::kValue) {
    state_ = push_value(byte);
  } else if (is_space(byte)) {
  } else if (place_ == Place::kBegin && byte == '{') {
    place_ = Place::kKey;
  } else if (place_ == Place::kKey && byte == '"' && key_.empty()) {
    in_string_ = true;
    key_ += byte;
  } else if (place_ == Place::kKey && byte == '}' && key_.empty()) {
    state_ = has_name_ ? State::kDone : State::kBroken;
  } else if (place_ == Place::kKey && byte == ':' && !key_.empty()) {
    place_ = Place::kValue;
    value_.clear();
  } else {
    state_ = State::kBroken;
  }
  if (key_.size() > kMaxKeyBytes || (value_.size() > kMaxKeyBytes && key_ == "\"name\""))
    state_ = State::kBroken;
  return state_;
}

void CallScanner::push_string(char byte) {
  if (place_ == Place::kKey) {
    key_ += byte;
  } else if (in_arguments()) {
    arguments_ += byte;
  } else if (key_ == "\"name\"") {
    value_ += byte;
  }
  if (!escaped_ && byte == '"') in_string_ = false;
  escaped_ = !escaped_ && byte == '\\';
}

CallScanner::State CallScanner::push_value(char byte) {
  if (depth_ == 0 && (byte == ',' || byte == '}')) {
    if (end_member() == State::kBroken) return State::kBroken;
    if (byte == ',') return State::kReading;
    return has_name_ ? State::kDone : State::kBroken;
  }
  if (depth_ == 0 && is_space(byte)) return State::kReading;  // around the value
  if (byte == '"') in_string_ = true;
  if (byte == '{' || byte == '[') ++depth_;
  if (byte == '}' || byte == ']') --depth_;
  if (depth_ < 0) return State::kBroken;
  if (in_arguments()) {
    has_arguments_ = true;
    arguments_ += byte;
  } else if (key_ == "\"name\"") {
    value_ += byte;
  }
  return State::kReading;
}

CallScanner::State CallScanner::end_member() {
  if (key_ == "\"name\"") {
    const Json name = Json::parse(value_, nullptr, /*allow_exceptions=*/false);
    if (!name.is_string() || name == "" || has_name_) return State::kBroken;
    name_ = name.get<std::string>();
    has_name_ = true;
  }
  key_.clear();
  place_ = Place::kKey;
  return State::kReading;
}

std::string CallScanner::take_arguments() {
  if (state_ == State::kDone && !has_arguments_) {
    has_arguments_ = true;
    return "{}";
  }
  return std::exchange(arguments_, {});
}

}  // namespace polylora
