// Methods of strings, dicts and lists that change nothing (HF's sandbox forbids the others).
#include <algorithm>
#include <unordered_map>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace polylora::jinja {
namespace {

const std::string& argument(const Args& args, std::string_view what) {
  const Value* value = args.get(0, "");
  if (value == nullptr) template_error("{}() takes an argument", what);
  return expect_string(*value, what);
}

template <bool kLeft, bool kRight>
Value strip(Interpreter& i, const Value& self, Args& args) {
  return i.make_string(strip_text(self.as_string(), args.get(0, "chars"), kLeft, kRight));
}

/// Words between runs of white space.
std::vector<Value> split_words(Interpreter& interpreter, const std::string& text, int64_t limit) {
  std::vector<Value> out;
  size_t pos = 0;
  const auto skip = [&] {
    while (pos < text.size()) {
      size_t next = pos;
      if (!is_python_space(next_code_point(text, next))) break;
      pos = next;
    }
  };
  for (skip(); pos < text.size(); skip()) {
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) {
      out.push_back(interpreter.make_string(text.substr(pos)));
      break;
    }
    const size_t begin = pos;
    while (pos < text.size()) {
      size_t next = pos;
      if (is_python_space(next_code_point(text, next))) break;
      pos = next;
    }
    out.push_back(interpreter.make_string(text.substr(begin, pos - begin)));
  }
  return out;
}

Value split(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const int64_t limit = args.integer(1, "maxsplit", -1);
  const Value* given = args.get(0, "sep");
  if (given == nullptr || given->is_none())
    return interpreter.make_list(split_words(interpreter, text, limit));
  const std::string& separator = expect_string(*given, "split separator");
  if (separator.empty()) template_error("empty separator");
  std::vector<Value> out;
  size_t begin = 0;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t found = text.find(separator, begin);
    if (found == std::string::npos) break;
    out.push_back(interpreter.make_string(text.substr(begin, found - begin)));
    begin = found + separator.size();
  }
  out.push_back(interpreter.make_string(text.substr(begin)));
  return interpreter.make_list(std::move(out));
}

Value rsplit(Interpreter& interpreter, const Value& self, Args& args) {
  const int64_t limit = args.integer(1, "maxsplit", -1);
  const Value* given = args.get(0, "sep");
  if (limit < 0) return split(interpreter, self, args);
  if (given == nullptr || given->is_none()) template_error("rsplit() with maxsplit needs a separator");
  const std::string& separator = expect_string(*given, "rsplit separator");
  if (separator.empty()) template_error("empty separator");
  std::string_view text = self.as_string();
  std::vector<Value> out;
  while (static_cast<int64_t>(out.size()) < limit) {
    const size_t found = text.rfind(separator);
    if (found == std::string_view::npos) break;
    out.push_back(interpreter.make_string(std::string(text.substr(found + separator.size()))));
    text = text.substr(0, found);
  }
  out.push_back(interpreter.make_string(std::string(text)));
  std::reverse(out.begin(), out.end());
  return interpreter.make_list(std::move(out));
}

Value splitlines(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const bool keep = args.flag(0, "keepends", false);
  std::vector<Value> out;
  for (size_t begin = 0; begin < text.size();) {
    size_t pos = begin, content = text.size(), end = text.size();
    while (pos < text.size()) {
      const size_t start = pos;
      const char32_t cp = next_code_point(text, pos);
      const bool line_break = (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 ||
                              cp == 0x2028 || cp == 0x2029;
      if (!line_break) continue;
      if (cp == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
      content = start;
      end = pos;
      break;
    }
    out.push_back(interpreter.make_string(text.substr(begin, (keep ? end : content) - begin)));
    begin = end;
  }
  return interpreter.make_list(std::move(out));
}

template <bool kEnd>
Value starts_or_ends(Interpreter&, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const auto matches = [&](const Value& affix) {
    const std::string& s = expect_string(affix, "startswith/endswith argument");
    return kEnd ? text.ends_with(s) : text.starts_with(s);
  };
  const Value* affix = args.get(0, "prefix");
  if (affix == nullptr) template_error("startswith/endswith takes an argument");
  if (!affix->is_list()) return Value::boolean(matches(*affix));
  const auto& items = affix->as_list().items;
  return Value::boolean(std::any_of(items.begin(), items.end(), matches));
}

Value replace(Interpreter& interpreter, const Value& self, Args& args) {
  const Value* from = args.get(0, "old");
  const Value* to = args.get(1, "new");
  if (from == nullptr || to == nullptr) template_error("replace() takes two strings");
  return replace_text(interpreter, self.as_string(), expect_string(*from, "replace argument"),
                      expect_string(*to, "replace argument"), args.integer(2, "count", -1));
}

/// Byte offset to code point index.
Value position(const std::string& text, size_t offset) {
  if (offset == std::string::npos) return Value::integer(-1);
  return Value::integer(static_cast<int64_t>(utf8_length(std::string_view(text).substr(0, offset))));
}

template <bool kLast, bool kMustFind>
Value find(Interpreter&, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const std::string& needle = argument(args, "find");
  const size_t at = kLast ? text.rfind(needle) : text.find(needle);
  if (kMustFind && at == std::string::npos) template_error("substring not found");
  return position(text, at);
}

Value count(Interpreter&, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const std::string& needle = argument(args, "count");
  if (needle.empty()) return Value::integer(static_cast<int64_t>(utf8_length(text)) + 1);
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(needle, at)) != std::string::npos; at += needle.size()) ++n;
  return Value::integer(n);
}

Value join(Interpreter& interpreter, const Value& self, Args& args) {
  const Value* items = args.get(0, "iterable");
  if (items == nullptr) template_error("join() takes an argument");
  const std::vector<Value> values = iterate(*items, interpreter.budget());
  for (const Value& value : values) expect_string(value, "sequence item");
  return join_values(interpreter, values, self.as_string());
}

template <std::string (*kMap)(std::string_view)>
Value map_text(Interpreter& interpreter, const Value& self, Args&) {
  return interpreter.make_string(kMap(self.as_string()));
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t cp = next_code_point(text, pos);
    append_utf8(out, is_upper(cp) ? to_lower(cp) : to_upper(cp));
  }
  return out;
}

/// True when the text is not empty and every character has the property.
template <bool (*kProperty)(char32_t)>
Value all_of(Interpreter&, const Value& self, Args&) {
  const std::string& text = self.as_string();
  for (size_t pos = 0; pos < text.size();) {
    if (!kProperty(next_code_point(text, pos))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

bool letter_or_number(char32_t cp) {
  return is_unicode_letter(cp) || is_unicode_number(cp);
}

/// isupper / islower: some cased character, and none of the other case.
template <bool kUpper>
Value is_case(Interpreter&, const Value& self, Args&) {
  const std::string& text = self.as_string();
  bool seen = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t cp = next_code_point(text, pos);
    if (kUpper ? is_lower(cp) : is_upper(cp)) return Value::boolean(false);
    seen = seen || (kUpper ? is_upper(cp) : is_lower(cp));
  }
  return Value::boolean(seen);
}

enum class Align { kLeft, kRight, kCenter };

template <Align kAlign>
Value pad(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const int64_t width = args.integer(0, "width", 0);
  const std::string fill = args.string(1, "fillchar", " ");
  if (utf8_length(fill) != 1) template_error("the fill character must be one character long");
  const auto length = static_cast<int64_t>(utf8_length(text));
  if (width <= length) return self;
  Budget::check_string(static_cast<uint64_t>(width) * fill.size());
  const int64_t total = width - length;
  const int64_t left = kAlign == Align::kLeft    ? 0
                       : kAlign == Align::kRight ? total
                                                 : total / 2 + (total & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = left; i < total; ++i) out += fill;
  return interpreter.make_string(std::move(out));
}

Value zfill(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const int64_t width = args.integer(0, "width", 0), length = static_cast<int64_t>(utf8_length(text));
  if (width <= length) return self;
  Budget::check_string(static_cast<uint64_t>(width));
  std::string out = text;
  out.insert(text.starts_with('-') || text.starts_with('+') ? 1 : 0, static_cast<size_t>(width - length),
             '0');
  return interpreter.make_string(std::move(out));
}

template <bool kLast>
Value partition(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const std::string& separator = argument(args, "partition");
  if (separator.empty()) template_error("empty separator");
  const size_t at = kLast ? text.rfind(separator) : text.find(separator);
  std::vector<Value> parts;
  if (at == std::string::npos) {
    const Value empty = Value::string("");
    parts = kLast ? std::vector<Value>{empty, empty, self} : std::vector<Value>{self, empty, empty};
  } else {
    parts = {interpreter.make_string(text.substr(0, at)), Value::string(separator),
             interpreter.make_string(text.substr(at + separator.size()))};
  }
  return interpreter.make_list(std::move(parts), ListType::kTuple);
}

template <bool kSuffix>
Value remove_affix(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& text = self.as_string();
  const std::string& affix = argument(args, "removeprefix/removesuffix");
  if (kSuffix ? !text.ends_with(affix) : !text.starts_with(affix)) return self;
  return interpreter.make_string(text.substr(kSuffix ? 0 : affix.size(), text.size() - affix.size()));
}

/// str.format for "{}", "{0}" and "{name}".
Value format(Interpreter& interpreter, const Value& self, Args& args) {
  const std::string& s = self.as_string();
  std::string out;
  size_t automatic = 0;
  for (size_t i = 0; i < s.size();) {
    const bool doubled = i + 1 < s.size() && s[i] == s[i + 1];
    if (s[i] != '{' && s[i] != '}') {
      out += s[i++];
      continue;
    }
    if (doubled) {
      out += s[i];
      i += 2;
      continue;
    }
    const size_t close = s[i] == '{' ? s.find('}', i) : std::string::npos;
    if (close == std::string::npos) template_error("single brace in a format string");
    const std::string field = s.substr(i + 1, close - i - 1);
    const bool digits =
        !field.empty() && field.size() < 9 && field.find_first_not_of("0123456789") == std::string::npos;
    const bool positional = field.empty() || digits;
    const size_t index = field.empty() ? automatic++ : digits ? std::stoul(field) : 0;
    const Value* value = args.get(positional ? index : args.positional.size(), positional ? "" : field);
    if (value == nullptr) template_error("format: no argument for '{{{}}}'", field);
    out += to_string(*value);
    Budget::check_string(out.size());
    i = close + 1;
  }
  return interpreter.make_string(std::move(out));
}

enum class Part { kKeys, kValues, kItems };

template <Part kPart>
Value dict_view(Interpreter& interpreter, const Value& self, Args&) {
  std::vector<Value> out;
  for (const auto& [key, value] : self.as_dict().items) {
    if (kPart == Part::kItems) {
      out.push_back(interpreter.make_list({key, value}, ListType::kTuple));
    } else {
      out.push_back(kPart == Part::kKeys ? key : value);
    }
  }
  return interpreter.make_list(std::move(out), ListType::kView);
}

Value dict_get(Interpreter&, const Value& self, Args& args) {
  const Value* key = args.get(0, "key");
  if (key == nullptr) template_error("get() takes a key");
  if (const Value* value = self.as_dict().find(*key)) return *value;
  const Value* fallback = args.get(1, "default");
  return fallback == nullptr ? Value::none() : *fallback;
}

Value copy(Interpreter&, const Value& self, Args&) {
  return self;
}

Value list_index(Interpreter&, const Value& self, Args& args) {
  const Value* wanted = args.get(0, "value");
  const auto& items = self.as_list().items;
  for (size_t i = 0; wanted != nullptr && i < items.size(); ++i) {
    if (equal(items[i], *wanted)) return Value::integer(static_cast<int64_t>(i));
  }
  template_error("the value is not in the list");
}

Value list_count(Interpreter&, const Value& self, Args& args) {
  const Value* wanted = args.get(0, "value");
  if (wanted == nullptr) template_error("count() takes a value");
  const auto& items = self.as_list().items;
  return Value::integer(
      std::count_if(items.begin(), items.end(), [&](const Value& v) { return equal(v, *wanted); }));
}

using Table = std::unordered_map<std::string_view, Builtin>;

const Table& string_methods() {
  static const Table table = {
      {"strip", strip<true, true>},
      {"lstrip", strip<true, false>},
      {"rstrip", strip<false, true>},
      {"split", split},
      {"rsplit", rsplit},
      {"splitlines", splitlines},
      {"startswith", starts_or_ends<false>},
      {"endswith", starts_or_ends<true>},
      {"replace", replace},
      {"find", find<false, false>},
      {"rfind", find<true, false>},
      {"index", find<false, true>},
      {"rindex", find<true, true>},
      {"count", count},
      {"join", join},
      {"lower", map_text<to_lower>},
      {"casefold", map_text<to_lower>},
      {"upper", map_text<to_upper>},
      {"title", map_text<title_text>},
      {"capitalize", map_text<capitalize_text>},
      {"swapcase", map_text<swap_case>},
      {"isdigit", all_of<is_unicode_number>},
      {"isnumeric", all_of<is_unicode_number>},
      {"isdecimal", all_of<is_unicode_number>},
      {"isalpha", all_of<is_unicode_letter>},
      {"isalnum", all_of<letter_or_number>},
      {"isspace", all_of<is_python_space>},
      {"isupper", is_case<true>},
      {"islower", is_case<false>},
      {"center", pad<Align::kCenter>},
      {"ljust", pad<Align::kLeft>},
      {"rjust", pad<Align::kRight>},
      {"zfill", zfill},
      {"partition", partition<false>},
      {"rpartition", partition<true>},
      {"removeprefix", remove_affix<false>},
      {"removesuffix", remove_affix<true>},
      {"format", format},
  };
  return table;
}

const Table& dict_methods() {
  static const Table table = {{"keys", dict_view<Part::kKeys>},
                              {"values", dict_view<Part::kValues>},
                              {"items", dict_view<Part::kItems>},
                              {"get", dict_get},
                              {"copy", copy}};
  return table;
}

const Table& list_methods() {
  static const Table table = {{"index", list_index}, {"count", list_count}, {"copy", copy}};
  return table;
}

}  // namespace

Builtin find_method(const Value& self, std::string_view name) {
  const Table* table = self.is_string() ? &string_methods()
                       : self.is_dict() ? &dict_methods()
                       : self.is_list() ? &list_methods()
                                        : nullptr;
  if (table == nullptr) return nullptr;
  const auto it = table->find(name);
  return it == table->end() ? nullptr : it->second;
}

}  // namespace polylora::jinja
