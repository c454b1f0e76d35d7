// One tool call as a JSON object, read byte by byte.
#pragma once

#include <string>
#include <string_view>

namespace polylora {

/// Finds "name" and the value of "arguments" or "parameters" among an object's members, whatever else it has.
/// The value's text is passed on as it comes, once the name is known.
class CallScanner {
 public:
  enum class State : uint8_t { kReading, kDone, kBroken };

  /// The object's next byte, its { first. Nothing may follow once the state is not kReading.
  State push(char byte);

  /// The value of the arguments is an object or a list, and has ended.
  bool arguments_complete() const { return has_arguments_ && in_arguments() && depth_ == 0 && !in_string_; }
  bool has_name() const { return has_name_; }
  const std::string& name() const { return name_; }
  /// What is new of the arguments; "{}" in the end when there were none. Only once there is a name.
  std::string take_arguments();

 private:
  enum class Place : uint8_t { kBegin, kKey, kColon, kValue };

  void push_string(char byte);
  State push_value(char byte);
  State end_member();
  bool in_arguments() const { return key_ == "\"arguments\"" || key_ == "\"parameters\""; }

  State state_ = State::kReading;
  Place place_ = Place::kBegin;
  int depth_ = 0;  // of brackets within a value
  bool in_string_ = false, escaped_ = false;
  bool has_name_ = false, has_arguments_ = false;
  std::string key_, value_;  // as written, quotes included
  std::string name_, arguments_;
};

}  // namespace polylora
