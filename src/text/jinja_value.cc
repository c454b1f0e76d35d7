#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "text/utf8.h"

namespace polylora::jinja {
namespace {

int child_depth(int depth) {
  if (depth >= kMaxValueDepth) template_error("values are nested deeper than {} levels", kMaxValueDepth);
  return depth + 1;
}

}  // namespace

// Namespaces and macros hold nothing themselves (the interpreter does), so 0 is theirs.
Object::Object(int depth_held) : depth_(depth_held == 0 ? 0 : child_depth(depth_held)) {}

std::optional<Value> Object::attribute(std::string_view) const {
  return std::nullopt;
}

Value Object::call(Interpreter&, Args&) const {
  template_error("'{}' object is not callable", type_name());
}

Value Value::list(std::vector<Value> items) {
  return list(List{std::move(items), ListType::kList, 0});
}

Value Value::list(List list) {
  int deepest = 0;
  for (const Value& item : list.items) deepest = std::max(deepest, item.depth());
  list.depth = child_depth(deepest);
  return Value(Data(std::make_shared<const List>(std::move(list))));
}

Value Value::dict(Dict dict) {
  int deepest = 0;
  for (const auto& [key, value] : dict.items) deepest = std::max({deepest, key.depth(), value.depth()});
  dict.depth = child_depth(deepest);
  return Value(Data(std::make_shared<const Dict>(std::move(dict))));
}

Value Value::from_json(const nlohmann::ordered_json& json, int depth) {
  using Type = nlohmann::ordered_json::value_t;
  if (depth >= kMaxValueDepth) template_error("JSON is nested deeper than {} levels", kMaxValueDepth);
  switch (json.type()) {
    case Type::null:
    case Type::discarded:
    case Type::binary:
      return none();
    case Type::boolean:
      return boolean(json.get<bool>());
    case Type::number_integer:
      return integer(json.get<int64_t>());
    case Type::number_unsigned: {
      const auto value = json.get<uint64_t>();
      return value > INT64_MAX ? number(static_cast<double>(value)) : integer(static_cast<int64_t>(value));
    }
    case Type::number_float:
      return number(json.get<double>());
    case Type::string:
      return string(to_valid_utf8(json.get_ref<const std::string&>()));
    case Type::array: {
      List list;
      list.items.reserve(json.size());
      for (const auto& item : json) list.items.push_back(from_json(item, depth + 1));
      return Value::list(std::move(list));
    }
    case Type::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        dict.set(string(to_valid_utf8(key)), from_json(item, depth + 1));
      }
      return Value::dict(std::move(dict));
    }
  }
  return none();
}

const std::string& Value::undefined_reason() const {
  static const std::string unnamed = "value is undefined";
  const auto& reason = std::get<Undefined>(data_).reason;
  return reason ? *reason : unnamed;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return as_bool();
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_double() != 0;
  if (is_string()) return !as_string().empty();
  if (is_list()) return as_list().type == ListType::kGenerator || !as_list().items.empty();
  if (is_dict()) return !as_dict().items.empty();
  return true;
}

int Value::depth() const {
  if (is_list()) return as_list().depth;
  if (is_dict()) return as_dict().depth;
  return is_object() ? as_object().depth() : 0;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_dict()) return "dict";
  if (is_object()) return as_object().type_name();
  switch (as_list().type) {
    case ListType::kTuple:
      return "tuple";
    case ListType::kGenerator:
      return "generator";
    case ListType::kView:
      return "dict_items";
    case ListType::kList:
      break;
  }
  return "list";
}

bool Value::same(const Value& o) const {
  if (data_.index() != o.data_.index()) return false;
  if (is_list()) return &as_list() == &o.as_list();
  if (is_dict()) return &as_dict() == &o.as_dict();
  if (is_object()) return &as_object() == &o.as_object();
  return equal(*this, o);
}

std::string Dict::key_of(const Value& key) {
  if (key.is_string()) return "s" + key.as_string();
  if (key.is_number()) {
    const double d = key.as_double();
    if (key.is_float() && d == std::floor(d) && std::abs(d) < 9e15)
      return fmt::format("i{}", static_cast<int64_t>(d));
    return key.is_float() ? fmt::format("f{}", d) : fmt::format("i{}", key.as_int());
  }
  if (key.is_none()) return "n";
  if (key.is_list() && key.as_list().type == ListType::kTuple) {
    std::string out = "t";
    for (const Value& item : key.as_list().items) {
      const std::string part = key_of(item);
      out += fmt::format("{}:{}", part.size(), part);
      Budget::check_string(out.size());
    }
    return out;
  }
  if (key.is_object()) return fmt::format("o{}", static_cast<const void*>(&key.as_object()));
  template_error("unhashable type: '{}'", key.type_name());
}

const Value* Dict::find(const Value& key) const {
  if (key.is_string()) return find(std::string_view(key.as_string()));
  if (key.is_undefined()) return nullptr;
  const auto it = index_.find(key_of(key));
  return it == index_.end() ? nullptr : &items[it->second].second;
}

const Value* Dict::find(std::string_view key) const {
  if (items.size() <= 8) {  // messages are this small, and comparing beats hashing
    for (const auto& [k, v] : items) {
      if (k.is_string() && k.as_string() == key) return &v;
    }
    return nullptr;
  }
  std::string spelled = "s";
  spelled += key;
  const auto it = index_.find(spelled);
  return it == index_.end() ? nullptr : &items[it->second].second;
}

void Dict::set(const Value& key, Value value) {
  const auto [it, fresh] = index_.try_emplace(key_of(key), items.size());
  if (fresh) {
    items.emplace_back(key, std::move(value));
  } else {
    items[it->second].second = std::move(value);
  }
}

const Value* Args::get(size_t i, std::string_view name) const {
  if (i < positional.size()) return &positional[i];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

int64_t Args::integer(size_t i, std::string_view name, int64_t fallback) const {
  const Value* v = get(i, name);
  if (v == nullptr || v->is_none()) return fallback;
  if (!v->is_integral()) template_error("argument '{}' must be an integer, not {}", name, v->type_name());
  return v->as_int();
}

bool Args::flag(size_t i, std::string_view name, bool fallback) const {
  const Value* v = get(i, name);
  return v == nullptr ? fallback : v->truthy();
}

std::string Args::string(size_t i, std::string_view name, std::string_view fallback) const {
  const Value* v = get(i, name);
  if (v == nullptr) return std::string(fallback);
  if (!v->is_string()) template_error("argument '{}' must be a string, not {}", name, v->type_name());
  return v->as_string();
}

bool equal(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.is_string() && b.is_string()) return a.as_string() == b.as_string();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_list() && b.is_list()) {
    const List &x = a.as_list(), &y = b.as_list();
    if (&x == &y) return true;
    return x.type == y.type &&
           std::equal(x.items.begin(), x.items.end(), y.items.begin(), y.items.end(), equal);
  }
  if (a.is_dict() && b.is_dict()) {
    const Dict &x = a.as_dict(), &y = b.as_dict();
    if (&x == &y) return true;
    if (x.items.size() != y.items.size()) return false;
    return std::all_of(x.items.begin(), x.items.end(), [&](const auto& item) {
      const Value* other = y.find(item.first);
      return other != nullptr && equal(item.second, *other);
    });
  }
  return a.is_object() && b.is_object() && &a.as_object() == &b.as_object();
}

bool less(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() < b.as_double();
  if (a.is_string() && b.is_string()) return a.as_string() < b.as_string();
  if (a.is_list() && b.is_list() && a.as_list().type == b.as_list().type) {
    const auto &x = a.as_list().items, &y = b.as_list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i])) return less(x[i], y[i]);
    }
    return x.size() < y.size();
  }
  if (a.is_undefined()) template_error("{}", a.undefined_reason());
  if (b.is_undefined()) template_error("{}", b.undefined_reason());
  template_error("'<' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name());
}

bool contains(const Value& haystack, const Value& needle, Budget& budget) {
  if (haystack.is_string()) {
    if (needle.is_undefined()) template_error("{}", needle.undefined_reason());
    if (!needle.is_string()) {
      template_error("'in <string>' requires string as left operand, not {}", needle.type_name());
    }
    budget.step(1 + haystack.as_string().size() / 256);
    return haystack.as_string().find(needle.as_string()) != std::string::npos;
  }
  if (haystack.is_dict()) return haystack.as_dict().find(needle) != nullptr;
  if (haystack.is_list()) {
    budget.step(1 + haystack.as_list().items.size() / 8);
    const auto& items = haystack.as_list().items;
    return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, needle); });
  }
  if (haystack.is_undefined()) return false;
  template_error("argument of type '{}' is not iterable", haystack.type_name());
}

bool is_iterable(const Value& v) {
  return v.is_list() || v.is_dict() || v.is_string() || v.is_undefined();
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  std::vector<Value> out;
  if (value.is_list()) {
    out = value.as_list().items;
  } else if (value.is_dict()) {
    for (const auto& [key, unused] : value.as_dict().items) out.push_back(key);
  } else if (value.is_string()) {
    const std::string& text = value.as_string();
    budget.allocate(text.size() * 64);
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      next_code_point(text, pos);
      out.push_back(Value::string(text.substr(begin, pos - begin)));
    }
  } else if (!value.is_undefined()) {
    template_error("'{}' object is not iterable", value.type_name());
  }
  budget.allocate(out.size() * sizeof(Value));
  budget.step(out.size() / 16);
  return out;
}

int64_t length(const Value& value) {
  if (value.is_string()) return static_cast<int64_t>(utf8_length(value.as_string()));
  if (value.is_dict()) return static_cast<int64_t>(value.as_dict().items.size());
  if (value.is_undefined()) return 0;
  if (!value.is_list() || value.as_list().type == ListType::kGenerator) {
    template_error("object of type '{}' has no len()", value.type_name());
  }
  return static_cast<int64_t>(value.as_list().items.size());
}

}  // namespace polylora::jinja
