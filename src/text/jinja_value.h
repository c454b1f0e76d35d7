// Values of the template language: Python's, as far as chat templates use them. A Value is a cheap handle;
// strings, lists and dicts behind it never change once made (templates cannot mutate them), only Namespaces
// do.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace polylora::jinja {

class Interpreter;
class Value;
struct Args;

/// A run-time problem of a template; the interpreter adds the line.
template <typename... T>
[[noreturn]] void template_error(fmt::format_string<T...> format, T&&... args) {
  fail(ErrorCode::kInvalidArgument, format, std::forward<T>(args)...);
}

/// What a render may use: a hostile template ends in an Error, not in a hang or out of memory.
struct Budget {
  static constexpr size_t kMaxString = size_t{64} << 20;  // one string, and the output
  uint64_t steps = 50'000'000;                            // evaluated nodes and loop turns
  static constexpr size_t kMaxItems = 1'000'000;          // of one list
  uint64_t bytes = uint64_t{1} << 30;                     // everything ever made

  void step(uint64_t n = 1) {
    if (steps < n) fail(ErrorCode::kResourceExhausted, "the chat template takes too many steps");
    steps -= n;
  }
  void allocate(uint64_t n) {
    if (bytes < n) fail(ErrorCode::kResourceExhausted, "the chat template makes too much data");
    bytes -= n;
  }
  static void check_items(uint64_t count) {
    if (count > kMaxItems)
      fail(ErrorCode::kResourceExhausted, "the chat template makes a list above {} items", kMaxItems);
  }
  static void check_string(uint64_t size) {
    if (size > kMaxString)
      fail(ErrorCode::kResourceExhausted, "the chat template makes a string above 64 MiB");
  }
};

/// Containers nest at most this deep, so that every recursion over values is bounded.
constexpr int kMaxValueDepth = 128;

struct List;
struct Dict;

/// Namespaces, loops, macros, functions: things with attributes or a call.
class Object {
 public:
  explicit Object(int depth_held = 0);  // depth of the values it holds; throws when that is too deep
  virtual ~Object() = default;
  int depth() const { return depth_; }
  virtual std::string_view type_name() const = 0;
  virtual std::optional<Value> attribute(std::string_view name) const;
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter& interpreter, Args& args) const;

 private:
  int depth_;
};

/// An undefined value remembers why, for the message when it is used.
struct Undefined {
  std::shared_ptr<const std::string> reason;
};

class Value {
 public:
  Value() = default;  // undefined
  static Value undefined(std::string reason) {
    Value v;
    v.data_ = Undefined{std::make_shared<const std::string>(std::move(reason))};
    return v;
  }
  static Value none() { return Value(Data(None{})); }
  static Value boolean(bool b) { return Value(Data(b)); }
  static Value integer(int64_t i) { return Value(Data(i)); }
  static Value number(double d) { return Value(Data(d)); }
  static Value string(std::string s) {
    return Value(Data(std::make_shared<const std::string>(std::move(s))));
  }
  static Value list(std::vector<Value> items);
  static Value list(List list);
  static Value dict(Dict dict);
  static Value object(std::shared_ptr<const Object> o) { return Value(Data(std::move(o))); }
  /// From JSON; throws kInvalidArgument when nested too deeply.
  static Value from_json(const nlohmann::ordered_json& json, int depth = 0);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_integral() const { return is_int() || is_bool(); }
  bool is_string() const { return std::holds_alternative<StringRef>(data_); }
  bool is_list() const { return std::holds_alternative<ListRef>(data_); }  // lists, tuples, generators, views
  bool is_dict() const { return std::holds_alternative<DictRef>(data_); }
  bool is_object() const { return std::holds_alternative<ObjectRef>(data_); }

  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return is_bool() ? (as_bool() ? 1 : 0) : std::get<int64_t>(data_); }
  double as_double() const { return is_float() ? std::get<double>(data_) : static_cast<double>(as_int()); }
  const std::string& as_string() const { return *std::get<StringRef>(data_); }
  const List& as_list() const { return *std::get<ListRef>(data_); }
  const Dict& as_dict() const { return *std::get<DictRef>(data_); }
  const Object& as_object() const { return *std::get<ObjectRef>(data_); }
  std::shared_ptr<const Object> object_ref() const { return std::get<ObjectRef>(data_); }
  const std::string& undefined_reason() const;

  bool truthy() const;
  int depth() const;
  std::string_view type_name() const;  // Python's: 'str', 'NoneType', 'dict', …
  /// Identity, for `is sameas` and for undefined values.
  bool same(const Value& other) const;

 private:
  struct None {};
  using StringRef = std::shared_ptr<const std::string>;
  using ListRef = std::shared_ptr<const List>;
  using DictRef = std::shared_ptr<const Dict>;
  using ObjectRef = std::shared_ptr<const Object>;
  using Data = std::variant<Undefined, None, bool, int64_t, double, StringRef, ListRef, DictRef, ObjectRef>;
  explicit Value(Data data) : data_(std::move(data)) {}

  Data data_;
};

/// Tuples print with parentheses; generators (what map and select make) are always true; views are
/// dict.items().
enum class ListType : uint8_t { kList, kTuple, kGenerator, kView };

struct List {
  std::vector<Value> items;
  ListType type = ListType::kList;
  int depth = 0;  // filled by Value::list
};

/// Insertion-ordered, keys by Python's equality (1 == 1.0 == True).
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 0;  // filled by Value::dict

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);

 private:
  static std::string key_of(const Value& key);  // throws for unhashable keys
  std::unordered_map<std::string, size_t> index_;
};

/// Arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// Argument number `i`, or the one named `name`; null when neither is given.
  const Value* get(size_t i, std::string_view name) const;
  int64_t integer(size_t i, std::string_view name, int64_t fallback) const;
  bool flag(size_t i, std::string_view name, bool fallback) const;
  std::string string(size_t i, std::string_view name, std::string_view fallback) const;
};

/// Python's ==; throws nothing.
bool equal(const Value& a, const Value& b);
/// Python's <; throws for types that have no order.
bool less(const Value& a, const Value& b);
/// Python's `needle in haystack`.
bool contains(const Value& haystack, const Value& needle, Budget& budget);
/// What a for loop walks over; throws when it is not iterable.
std::vector<Value> iterate(const Value& value, Budget& budget);
bool is_iterable(const Value& value);
/// len(); throws when there is none.
int64_t length(const Value& value);

/// str(value) and repr(value).
std::string to_string(const Value& value);
void append_repr(std::string& out, const Value& value, int depth = 0);
std::string float_repr(double value);

/// json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…).
struct JsonStyle {
  bool ensure_ascii = false;
  int indent = -1;          // -1: one line
  std::string indent_text;  // used instead of spaces when not empty
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace polylora::jinja
