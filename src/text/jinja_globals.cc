// Global functions of the template language.
#include "text/jinja_builtins.h"

namespace polylora::jinja {
namespace {

class Function final : public Object {
 public:
  Function(std::string_view name, std::function<Value(Interpreter&, Args&)> body, int depth_held)
      : Object(depth_held), name_(name), body_(std::move(body)) {}
  std::string_view type_name() const override { return name_; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Args& args) const override { return body_(interpreter, args); }

 private:
  std::string name_;
  std::function<Value(Interpreter&, Args&)> body_;
};

/// cycler(a, b, …): next() walks round, current shows where it is.
class Cycler final : public Object {
 public:
  explicit Cycler(Value items) : Object(items.depth()), items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  std::optional<Value> attribute(std::string_view name) const override {
    const auto& items = items_.as_list().items;
    if (name == "current") return items[*position_];
    if (name == "reset") {
      return make_function("reset", [position = position_](Interpreter&, Args&) {
        *position = 0;
        return Value::none();
      });
    }
    if (name != "next") return std::nullopt;
    return make_function(
        "next",
        [position = position_, list = items_](Interpreter&, Args&) {
          const auto& all = list.as_list().items;
          const Value out = all[*position];
          *position = (*position + 1) % all.size();
          return out;
        },
        items_.depth());
  }

 private:
  Value items_;
  std::shared_ptr<size_t> position_ = std::make_shared<size_t>(0);
};

Value range(Interpreter& interpreter, Args& args) {
  constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same limit
  if (args.positional.empty() || args.positional.size() > 3) template_error("range() takes 1 to 3 integers");
  const bool one = args.positional.size() == 1;
  const int64_t first = one ? 0 : args.integer(0, "", 0),
                last = one ? args.integer(0, "", 0) : args.integer(1, "", 0);
  const int64_t step = args.integer(2, "", 1);
  if (step == 0) template_error("range() step must not be zero");
  std::vector<Value> out;
  for (int64_t i = first; step > 0 ? i < last : i > last;) {
    if (static_cast<int64_t>(out.size()) >= kMaxRange)
      template_error("range() is limited to {} items", kMaxRange);
    out.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return interpreter.make_list(std::move(out));
}

void fill_from_mapping(const Args& args, const std::function<void(const Value&, const Value&)>& set) {
  for (const Value& source : args.positional) {
    if (!source.is_dict()) template_error("expected a mapping, not {}", source.type_name());
    for (const auto& [key, value] : source.as_dict().items) set(key, value);
  }
  for (const auto& [key, value] : args.named) set(Value::string(key), value);
}

Value make_dict(Interpreter& interpreter, Args& args) {
  Dict dict;
  fill_from_mapping(args, [&](const Value& key, const Value& value) { dict.set(key, value); });
  interpreter.budget().allocate(dict.items.size() * 64 + 64);
  return Value::dict(std::move(dict));
}

Value make_namespace(Interpreter& interpreter, Args& args) {
  auto ns = std::make_shared<Namespace>();
  fill_from_mapping(args, [&](const Value& key, const Value& value) { ns->set(to_string(key), value); });
  return interpreter.make_namespace(std::move(ns));
}

Value make_cycler(Interpreter& interpreter, Args& args) {
  if (args.positional.empty()) template_error("at least one item has to be provided");
  return Value::object(std::make_shared<Cycler>(interpreter.make_list(args.positional)));
}

Value make_joiner(Interpreter&, Args& args) {
  return make_function(
      "joiner",
      [used = std::make_shared<bool>(false), separator = Value::string(args.string(0, "sep", ", "))](
          Interpreter&, Args&) { return std::exchange(*used, true) ? separator : Value::string(""); });
}

[[noreturn]] Value raise_exception(Interpreter&, Args& args) {
  const Value* message = args.get(0, "message");
  throw RaisedError(message == nullptr ? "the chat template refused the messages" : to_string(*message));
}

Value strftime_now(Interpreter& interpreter, Args& args) {
  const std::string format = args.string(0, "format", "%Y-%m-%d");
  if (format.empty()) return Value::string("");
  const std::tm now = interpreter.now();
  std::string out(4096, '\0');
  const std::string guarded = format + "|";  // tells an empty result from one that does not fit
  const size_t n = std::strftime(out.data(), out.size(), guarded.c_str(), &now);
  if (n == 0) template_error("strftime_now: the result of '{}' is too long", format.substr(0, 80));
  out.resize(n - 1);
  return interpreter.make_string(std::move(out));
}

}  // namespace

Value make_function(std::string_view name, std::function<Value(Interpreter&, Args&)> body, int depth_held) {
  return Value::object(std::make_shared<Function>(name, std::move(body), depth_held));
}

void define_globals(Interpreter& interpreter) {
  const auto add = [&](const std::string& name, Value (*body)(Interpreter&, Args&)) {
    interpreter.define(name, make_function(name, body));
  };
  add("range", range);
  add("dict", make_dict);
  add("namespace", make_namespace);
  add("cycler", make_cycler);
  add("joiner", make_joiner);
  add("strftime_now", strftime_now);
  add("raise_exception", raise_exception);
}

}  // namespace polylora::jinja
