// Filters: what stands behind `|`.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

std::vector<Value> items_of(Interpreter& i, const Value& v) {
  return iterate(v, i.budget());
}

const Value& required(const Args& args, size_t i, std::string_view name, std::string_view filter) {
  const Value* value = args.get(i, name);
  if (value == nullptr) template_error("filter '{}' needs the argument '{}'", filter, name);
  return *value;
}

// ---- text ----

template <std::string (*kMap)(std::string_view)>
Value map_text(Interpreter& i, const Value& v, Args&) {
  return i.make_string(kMap(to_string(v)));
}

Value trim(Interpreter& i, const Value& v, Args& a) {
  return i.make_string(strip_text(to_string(v), a.get(0, "chars"), true, true));
}

Value replace(Interpreter& i, const Value& v, Args& a) {
  const std::string from = to_string(required(a, 0, "old", "replace")),
                    to = to_string(required(a, 1, "new", "replace"));
  return replace_text(i, to_string(v), from, to, a.integer(2, "count", -1));
}

Value join(Interpreter& i, const Value& v, Args& a) {
  const Value* separator = a.get(0, "d");
  std::vector<Value> items = items_of(i, v);
  if (const Value* attribute = a.get(1, "attribute")) {
    for (Value& item : items) item = i.get_item(item, *attribute);
  }
  return join_values(i, items, separator == nullptr ? "" : to_string(*separator));
}

Value escape(Interpreter& i, const Value& v, Args&) {
  std::string out;
  for (const char c : to_string(v)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return i.make_string(std::move(out));
}

/// Indents all lines but the first (first=true: all), empty ones only with blank=true.
Value indent(Interpreter& i, const Value& v, Args& a) {
  const Value* width = a.get(0, "width");
  std::string prefix(4, ' ');
  if (width != nullptr && width->is_string()) {
    prefix = width->as_string();
  } else if (width != nullptr) {
    const int64_t n = a.integer(0, "width", 4);
    Budget::check_string(static_cast<uint64_t>(std::max<int64_t>(n, 0)));
    prefix.assign(static_cast<size_t>(std::max<int64_t>(n, 0)), ' ');
  }
  const bool first = a.flag(1, "first", false), blank = a.flag(2, "blank", false);
  const std::string text = to_string(v);
  std::string out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if ((begin == 0 ? first : true) && (blank || begin == 0 || end > begin)) out += prefix;
    out.append(text, begin, end - begin);
    if (end < text.size()) out += '\n';
    Budget::check_string(out.size());
    begin = end + 1;
  }
  return i.make_string(std::move(out));
}

Value truncate(Interpreter& i, const Value& v, Args& a) {
  const std::string text = to_string(v);
  const int64_t length = a.integer(0, "length", 255), leeway = a.integer(3, "leeway", 5);
  const bool kill_words = a.flag(1, "killwords", false);
  const std::string end = a.string(2, "end", "...");
  const auto cut = length - static_cast<int64_t>(utf8_length(end));
  if (cut < 0) template_error("truncate: the length is shorter than the end mark");
  const auto size = static_cast<int64_t>(utf8_length(text));
  if (size <= length || size - length <= leeway) return i.make_string(text);
  size_t pos = 0;
  for (int64_t n = 0; n < cut && pos < text.size(); ++n) next_code_point(text, pos);
  std::string out = text.substr(0, pos);
  if (const size_t space = out.rfind(' '); !kill_words && space != std::string::npos) out.resize(space);
  out += end;
  return i.make_string(std::move(out));
}

Value wordcount(Interpreter&, const Value& v, Args&) {
  const std::string text = to_string(v);
  int64_t words = 0;
  bool inside = false;
  for (size_t pos = 0; pos < text.size();) {
    const bool word = is_word_char(next_code_point(text, pos));
    if (word && !inside) ++words;
    inside = word;
  }
  return Value::integer(words);
}

Value center(Interpreter& i, const Value& v, Args& a) {
  Args width;
  width.positional.push_back(Value::integer(a.integer(0, "width", 80)));
  const Value text = i.make_string(to_string(v));
  return find_method(text, "center")(i, text, width);
}

Value format(Interpreter& i, const Value& v, Args& a) {
  if (!a.named.empty()) {
    Dict dict;
    for (const auto& [key, value] : a.named) dict.set(Value::string(key), value);
    return i.make_string(percent_format(to_string(v), Value::dict(std::move(dict))));
  }
  return i.make_string(percent_format(to_string(v), i.make_list(a.positional, ListType::kTuple)));
}

Value urlencode(Interpreter& i, const Value& v, Args&) {
  std::string out;
  for (const char c : to_string(v)) {
    const bool plain = (static_cast<uint8_t>(c) < 0x80 && is_word_char(static_cast<uint8_t>(c))) ||
                       c == '-' || c == '.' || c == '~' || c == '/';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<uint8_t>(c));
  }
  return i.make_string(std::move(out));
}

Value tojson(Interpreter& i, const Value& v, Args& a) {
  JsonStyle style;
  style.ensure_ascii = a.flag(0, "ensure_ascii", false);
  const Value* indent_given = a.get(1, "indent");
  if (indent_given != nullptr && indent_given->is_string()) {
    style.indent_text = indent_given->as_string();
    style.indent = 0;
  } else if (indent_given != nullptr && !indent_given->is_none()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(a.integer(1, "indent", 0), 0, 1000));
  }
  if (style.indent >= 0) style.item_separator.resize(1);  // ",": the line break separates
  if (const Value* separators = a.get(2, "separators"); separators != nullptr && !separators->is_none()) {
    const std::vector<Value> both = iterate(*separators, i.budget());
    if (both.size() != 2) template_error("tojson: separators must be a pair");
    style.item_separator = expect_string(both[0], "separator");
    style.key_separator = expect_string(both[1], "separator");
  }
  style.sort_keys = a.flag(3, "sort_keys", false);
  return i.make_string(to_json(v, style));
}

// ---- numbers ----

Value absolute(Interpreter&, const Value& v, Args&) {
  if (v.is_float()) return Value::number(std::abs(v.as_double()));
  if (!v.is_integral()) template_error("bad operand type for abs(): '{}'", v.type_name());
  return v.as_int() < 0 ? negate(v) : Value::integer(v.as_int());
}

Value to_int(Interpreter&, const Value& v, Args& a) {
  const Value* given = a.get(0, "default");
  const Value fallback = given == nullptr ? Value::integer(0) : *given;
  if (v.is_integral()) return Value::integer(v.as_int());
  double d = 0;
  if (v.is_float()) {
    d = v.as_double();
  } else if (v.is_string()) {
    std::string text = strip_text(v.as_string(), nullptr, true, true);
    if (text.starts_with('+')) text.erase(0, 1);
    const auto base = static_cast<int>(std::clamp<int64_t>(a.integer(1, "base", 10), 2, 36));
    const bool hex = base == 16 && (text.starts_with("0x") || text.starts_with("0X"));
    if (hex || (base == 8 && text.starts_with("0o")) || (base == 2 && text.starts_with("0b")))
      text.erase(0, 2);
    int64_t out = 0;
    const char* end = text.data() + text.size();
    if (const auto r = std::from_chars(text.data(), end, out, base); r.ec == std::errc() && r.ptr == end) {
      return Value::integer(out);
    }
    if (const auto r = std::from_chars(text.data(), end, d); r.ec != std::errc() || r.ptr != end)
      return fallback;
  } else {
    return fallback;
  }
  return std::abs(d) < 9e18 ? Value::integer(static_cast<int64_t>(d)) : fallback;
}

Value to_float(Interpreter&, const Value& v, Args& a) {
  const Value* given = a.get(0, "default");
  if (v.is_number()) return Value::number(v.as_double());
  if (v.is_string()) {
    const std::string text = strip_text(v.as_string(), nullptr, true, true);
    double d = 0;
    const char* end = text.data() + text.size();
    if (const auto r = std::from_chars(text.data(), end, d); r.ec == std::errc() && r.ptr == end)
      return Value::number(d);
  }
  return given == nullptr ? Value::number(0) : *given;
}

Value round_number(Interpreter&, const Value& v, Args& a) {
  if (!v.is_number()) template_error("round needs a number, not {}", v.type_name());
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<int64_t>(a.integer(0, "precision", 0), -300, 300)));
  const std::string method = a.string(1, "method", "common");
  const double x = v.as_double() * scale;
  if (method == "ceil") return Value::number(std::ceil(x) / scale);
  if (method == "floor") return Value::number(std::floor(x) / scale);
  if (v.is_integral()) return v;
  return Value::number(std::nearbyint(x) / scale);  // ties to even, as Python's round
}

Value sum(Interpreter& i, const Value& v, Args& a) {
  const Value* attribute = a.get(0, "attribute");
  const Value* start = a.get(1, "start");
  Value total = start == nullptr ? Value::integer(0) : *start;
  for (const Value& item : items_of(i, v)) {
    const bool direct = attribute == nullptr || attribute->is_none();
    total = binary_operation(i, Op::kAdd, total, direct ? item : i.get_item(item, *attribute));
  }
  return total;
}

// ---- general ----

Value fallback_value(Interpreter&, const Value& v, Args& a) {
  const Value* given = a.get(0, "default_value");
  const bool use = v.is_undefined() || (a.flag(1, "boolean", false) && !v.truthy());
  if (!use) return v;
  return given == nullptr ? Value::string("") : *given;
}

Value attr(Interpreter& i, const Value& v, Args& a) {
  const std::string name = to_string(required(a, 0, "name", "attr"));
  if (v.is_object() || find_method(v, name) != nullptr) return i.get_attribute(v, name);
  return Value::undefined(fmt::format("'{} object' has no attribute '{}'", v.type_name(), name));
}

Value to_text(Interpreter& i, const Value& v, Args&) {
  return v.is_string() ? v : i.make_string(to_string(v));
}
Value count(Interpreter&, const Value& v, Args&) {
  return Value::integer(length(v));
}
Value to_list(Interpreter& i, const Value& v, Args&) {
  return i.make_list(items_of(i, v));
}
Value unchanged(Interpreter&, const Value& v, Args&) {
  return v;
}

Value first(Interpreter& i, const Value& v, Args&) {
  const std::vector<Value> items = items_of(i, v);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(Interpreter& i, const Value& v, Args&) {
  const std::vector<Value> items = items_of(i, v);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(Interpreter& i, const Value& v, Args&) {
  std::vector<Value> items = items_of(i, v);
  std::reverse(items.begin(), items.end());
  return v.is_string() ? join_values(i, items, "") : i.make_list(std::move(items), ListType::kGenerator);
}

Value dict_items(Interpreter& i, const Value& v, Args& a) {
  if (v.is_undefined()) return i.make_list({}, ListType::kGenerator);
  if (!v.is_dict()) template_error("Can only get item pairs from a mapping.");
  return find_method(v, "items")(i, v, a);
}

// ---- sequences ----

/// "a.b.0": a path of attributes, as Jinja's attribute arguments.
Value path_value(Interpreter& i, const Value& item, const Value& path) {
  if (!path.is_string()) return i.get_item(item, path);
  Value value = item;
  const std::string& text = path.as_string();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    int64_t index = 0;
    const auto r = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = !part.empty() && r.ec == std::errc() && r.ptr == part.data() + part.size();
    value = i.get_item(value, number ? Value::integer(index) : Value::string(part));
    begin = end + 1;
  }
  return value;
}

/// What a sort compares: text without case unless asked.
Value sort_key(const Value& v, bool case_sensitive) {
  return v.is_string() && !case_sensitive ? Value::string(to_lower(std::string_view(v.as_string()))) : v;
}

/// Merge sort of our own: `less` may throw or be inconsistent, which std::sort must not meet.
void stable_sort_values(std::vector<std::pair<Value, Value>>& items, bool descending, Budget& budget) {
  std::vector<std::pair<Value, Value>> buffer(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t low = 0; low < items.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, items.size()),
                   high = std::min(low + 2 * width, items.size());
      size_t a = low, b = middle;
      for (size_t k = low; k < high; ++k) {
        budget.step();
        const bool right = b < high && (a >= middle || (descending ? less(items[a].first, items[b].first)
                                                                   : less(items[b].first, items[a].first)));
        buffer[k] = right ? items[b++] : items[a++];
      }
    }
    std::swap(items, buffer);
  }
}

Value sort(Interpreter& i, const Value& v, Args& a) {
  const bool descending = a.flag(0, "reverse", false), case_sensitive = a.flag(1, "case_sensitive", false);
  const Value* attribute = a.get(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items_of(i, v)) {
    const bool direct = attribute == nullptr || attribute->is_none();
    Value key = sort_key(direct ? item : path_value(i, item, *attribute), case_sensitive);
    keyed.emplace_back(std::move(key), std::move(item));
  }
  stable_sort_values(keyed, descending, i.budget());
  std::vector<Value> out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return i.make_list(std::move(out));
}

Value dictsort(Interpreter& i, const Value& v, Args& a) {
  if (!v.is_dict()) template_error("dictsort needs a mapping, not {}", v.type_name());
  const bool case_sensitive = a.flag(0, "case_sensitive", false), descending = a.flag(2, "reverse", false);
  const bool by_value = a.string(1, "by", "key") == "value";
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : v.as_dict().items) {
    keyed.emplace_back(sort_key(by_value ? value : key, case_sensitive),
                       i.make_list({key, value}, ListType::kTuple));
  }
  stable_sort_values(keyed, descending, i.budget());
  std::vector<Value> out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return i.make_list(std::move(out));
}

Value unique(Interpreter& i, const Value& v, Args& a) {
  const bool case_sensitive = a.flag(0, "case_sensitive", false);
  const Value* attribute = a.get(1, "attribute");
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : items_of(i, v)) {
    const Value key = sort_key(attribute == nullptr ? item : path_value(i, item, *attribute), case_sensitive);
    if (seen.find(key) != nullptr) continue;
    i.budget().allocate(64);
    seen.set(key, Value::none());
    out.push_back(item);
  }
  return i.make_list(std::move(out), ListType::kGenerator);
}

template <bool kMax>
Value extreme(Interpreter& i, const Value& v, Args& a) {
  const bool case_sensitive = a.flag(0, "case_sensitive", false);
  const Value* attribute = a.get(1, "attribute");
  Value best, best_key;
  bool found = false;
  for (const Value& item : items_of(i, v)) {
    const Value key = sort_key(attribute == nullptr ? item : path_value(i, item, *attribute), case_sensitive);
    if (found && !(kMax ? less(best_key, key) : less(key, best_key))) continue;
    best = item;
    best_key = key;
    found = true;
  }
  return found ? best : Value::undefined("No aggregated item, sequence was empty.");
}

Value groupby(Interpreter& i, const Value& v, Args& a) {
  const Value path = required(a, 0, "attribute", "groupby");
  const Value* fallback = a.get(1, "default");
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items_of(i, v)) {
    Value key = path_value(i, item, path);
    if (key.is_undefined() && fallback != nullptr) key = *fallback;
    keyed.emplace_back(sort_key(key, a.flag(2, "case_sensitive", false)), std::move(item));
  }
  stable_sort_values(keyed, false, i.budget());
  std::vector<Value> out;
  for (size_t begin = 0; begin < keyed.size();) {
    size_t end = begin;
    std::vector<Value> group;
    while (end < keyed.size() && equal(keyed[end].first, keyed[begin].first))
      group.push_back(keyed[end++].second);
    Value key = path_value(i, keyed[begin].second, path);
    if (key.is_undefined()) key = keyed[begin].first;
    out.push_back(i.make_list({key, i.make_list(std::move(group))}, ListType::kTuple));
    begin = end;
  }
  return i.make_list(std::move(out));
}

Value batch(Interpreter& i, const Value& v, Args& a) {
  const int64_t size = a.integer(0, "linecount", 0);
  const Value* fill = a.get(1, "fill_with");
  if (size < 1 || size > 100'000) template_error("batch: the size must be between 1 and 100000");
  std::vector<Value> out, row;
  for (Value& item : items_of(i, v)) {
    row.push_back(std::move(item));
    if (static_cast<int64_t>(row.size()) == size) out.push_back(i.make_list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (fill != nullptr && !fill->is_none()) row.resize(static_cast<size_t>(size), *fill);
    out.push_back(i.make_list(std::move(row)));
  }
  return i.make_list(std::move(out), ListType::kGenerator);
}

Value slice(Interpreter& i, const Value& v, Args& a) {
  const int64_t count_wanted = a.integer(0, "slices", 0);
  const Value* fill = a.get(1, "fill_with");
  if (count_wanted < 1 || count_wanted > 100'000)
    template_error("slice: the count must be between 1 and 100000");
  const std::vector<Value> items = items_of(i, v);
  const auto n = static_cast<size_t>(count_wanted);
  const size_t base = items.size() / n, extra = items.size() % n;
  std::vector<Value> out;
  size_t at = 0;
  for (size_t k = 0; k < n; ++k) {
    const size_t take = base + (k < extra ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(at),
                            items.begin() + static_cast<std::ptrdiff_t>(at + take));
    at += take;
    if (fill != nullptr && !fill->is_none() && extra > 0 && k >= extra) part.push_back(*fill);
    out.push_back(i.make_list(std::move(part)));
  }
  return i.make_list(std::move(out), ListType::kGenerator);
}

/// map(attribute=…, default=…) or map('filter', arguments…).
Value map(Interpreter& i, const Value& v, Args& a) {
  std::vector<Value> items = items_of(i, v);
  if (const Value* path = a.get(SIZE_MAX, "attribute")) {
    const Value* fallback = a.get(SIZE_MAX, "default");
    for (Value& item : items) {
      i.budget().step();
      item = path_value(i, item, *path);
      if (item.is_undefined() && fallback != nullptr) item = *fallback;
    }
    return i.make_list(std::move(items), ListType::kGenerator);
  }
  const std::string name = expect_string(required(a, 0, "filter", "map"), "the filter's name");
  for (Value& item : items) {
    i.budget().step();
    Args rest{{a.positional.begin() + 1, a.positional.end()}, a.named};
    item = i.apply_filter(name, item, rest);
  }
  return i.make_list(std::move(items), ListType::kGenerator);
}

/// select, reject, selectattr, rejectattr: keep what a test (default: truth) says.
template <bool kAttribute, bool kKeep>
Value select(Interpreter& i, const Value& v, Args& a) {
  const size_t test_at = kAttribute ? 1 : 0;
  if (kAttribute && a.positional.empty()) template_error("selectattr/rejectattr need an attribute");
  std::vector<Value> out;
  for (Value& item : items_of(i, v)) {
    i.budget().step();
    const Value tested = kAttribute ? path_value(i, item, a.positional[0]) : item;
    bool holds = tested.truthy();
    if (a.positional.size() > test_at) {
      Args rest{{a.positional.begin() + test_at + 1, a.positional.end()}, a.named};
      holds = i.apply_test(expect_string(a.positional[test_at], "the test's name"), tested, rest);
    }
    if (holds == kKeep) out.push_back(std::move(item));
  }
  return i.make_list(std::move(out), ListType::kGenerator);
}

}  // namespace

Builtin find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Builtin> table = {
      {"abs", absolute},
      {"attr", attr},
      {"batch", batch},
      {"capitalize", map_text<capitalize_text>},
      {"center", center},
      {"count", count},
      {"d", fallback_value},
      {"default", fallback_value},
      {"dictsort", dictsort},
      {"e", escape},
      {"escape", escape},
      {"first", first},
      {"float", to_float},
      {"forceescape", escape},
      {"format", format},
      {"groupby", groupby},
      {"indent", indent},
      {"int", to_int},
      {"items", dict_items},
      {"join", join},
      {"last", last},
      {"length", count},
      {"list", to_list},
      {"lower", map_text<to_lower>},
      {"map", map},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"reject", select<false, false>},
      {"rejectattr", select<true, false>},
      {"replace", replace},
      {"reverse", reverse},
      {"round", round_number},
      {"safe", unchanged},
      {"select", select<false, true>},
      {"selectattr", select<true, true>},
      {"slice", slice},
      {"sort", sort},
      {"string", to_text},
      {"sum", sum},
      {"title", map_text<title_text>},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"unique", unique},
      {"upper", map_text<to_upper>},
      {"urlencode", urlencode},
      {"wordcount", wordcount},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace polylora::jinja
