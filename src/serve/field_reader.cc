#include "serve/field_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>

namespace polylora {

namespace {

constexpr size_t kShownErrors = 10;
constexpr size_t kShownStringBytes = 100;
constexpr uint64_t kMaxId = std::numeric_limits<int32_t>::max();

/// The whole of `text` as a number.
template <typename T>
std::optional<T> parse_whole(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool fits_int(int64_t value) {
  return value >= std::numeric_limits<int>::min() && value <= std::numeric_limits<int>::max();
}

std::string body_loc(const char* key) {
  return fmt::format("body.{}", key);
}

}  // namespace

std::string python_float(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

std::string describe_value(const Json& value) {
  if (value.is_object()) return fmt::format("'<dict of {} items>'", value.size());
  if (value.is_array()) return fmt::format("'<list of {} items>'", value.size());
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_float()) return python_float(value.get<double>());
  if (!value.is_string()) return dump_json(value);
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() <= kShownStringBytes) return fmt::format("'{}'", text);
  return fmt::format("'<string of {} bytes>'", text.size());
}

const Json* FieldReader::find(const char* key) const {
  const auto found = body_.find(key);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

void FieldReader::report(std::string_view type, std::string_view loc, std::string_view message,
                         const Json* input) {
  if (error_count_++ == 0) first_loc_ = loc;
  if (errors_.size() == kShownErrors) return;
  errors_.push_back(fmt::format("{{'type': '{}', 'loc': '{}', 'msg': '{}', 'input': {}}}", type, loc, message,
                                input != nullptr ? describe_value(*input) : "None"));
}

void FieldReader::finish() const {
  if (error_count_ == 0) return;
  std::string message = fmt::format("{} validation error{}:", error_count_, error_count_ == 1 ? "" : "s");
  for (const std::string& error : errors_) message += "\n  " + error;
  fail_validation(message, first_loc_);
}

void FieldReader::require(const char* key) {
  if (!body_.contains(key)) report("missing", body_loc(key), "Field required", &body_);
}

std::optional<bool> FieldReader::boolean(const char* key) {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number_integer() && (*value == 0 || *value == 1)) return *value == 1;
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (text == "true" || text == "True" || text == "1") return true;
    if (text == "false" || text == "False" || text == "0") return false;
    report("bool_parsing", body_loc(key), "Input should be a valid boolean, unable to interpret input",
           value);
  } else {
    report("bool_type", body_loc(key), "Input should be a valid boolean", value);
  }
  return std::nullopt;
}

std::optional<int64_t> FieldReader::to_integer(const Json& value, const std::string& loc) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (value.is_number_unsigned() && value.get<uint64_t>() > kMax) {
    report("int_parsing_size", loc, "Unable to parse input string as an integer, exceeded maximum size",
           &value);
  } else if (value.is_number_integer()) {
    return value.get<int64_t>();
  } else if (value.is_boolean()) {
    return value.get<bool>() ? 1 : 0;
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number == std::floor(number) && std::fabs(number) < 9e18) return static_cast<int64_t>(number);
    report("int_from_float", loc, "Input should be a valid integer, got a number with a fractional part",
           &value);
  } else if (value.is_string()) {
    if (const auto parsed = parse_whole<int64_t>(value.get_ref<const std::string&>())) return parsed;
    report("int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer",
           &value);
  } else {
    report("int_type", loc, "Input should be a valid integer", &value);
  }
  return std::nullopt;
}

std::optional<int64_t> FieldReader::integer(const char* key) {
  const Json* value = find(key);
  return value == nullptr ? std::nullopt : to_integer(*value, body_loc(key));
}

std::optional<int> FieldReader::small_integer(const char* key) {
  const std::optional<int64_t> value = integer(key);
  if (!value) return std::nullopt;
  if (fits_int(*value)) return static_cast<int>(*value);
  report("int_parsing_size", body_loc(key), "Input should be an integer of 32 bits", find(key));
  return std::nullopt;
}

std::optional<double> FieldReader::to_number(const Json& value, const std::string& loc) {
  if (value.is_number()) return value.get<double>();
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_string()) {
    const auto parsed = parse_whole<double>(value.get_ref<const std::string&>());
    if (parsed && std::isfinite(*parsed)) return parsed;
    report("float_parsing", loc, "Input should be a valid number, unable to parse string as a number",
           &value);
  } else {
    report("float_type", loc, "Input should be a valid number", &value);
  }
  return std::nullopt;
}

std::optional<double> FieldReader::number(const char* key) {
  const Json* value = find(key);
  return value == nullptr ? std::nullopt : to_number(*value, body_loc(key));
}

std::optional<std::string> FieldReader::string(const char* key) {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  report("string_type", body_loc(key), "Input should be a valid string", value);
  return std::nullopt;
}

const Json* FieldReader::object(const char* key) {
  const Json* value = find(key);
  if (value == nullptr || value->is_object()) return value;
  report("dict_type", body_loc(key), "Input should be a valid dictionary", value);
  return nullptr;
}

const Json* FieldReader::array(const char* key) {
  const Json* value = find(key);
  if (value == nullptr || value->is_array()) return value;
  report("list_type", body_loc(key), "Input should be a valid list", value);
  return nullptr;
}

std::optional<std::vector<int32_t>> FieldReader::token_id_list(const Json& value, const std::string& loc) {
  if (!value.is_array()) {
    report("list_type", loc, "Input should be a valid list", &value);
    return std::nullopt;
  }
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    const Json& item = value[i];
    const bool plain = item.is_number_unsigned() && item.get<uint64_t>() <= kMaxId;
    const std::optional<int64_t> id =
        plain ? item.get<int64_t>() : to_integer(item, fmt::format("{}.{}", loc, i));
    if (!id) return std::nullopt;  // one bad item is enough said about a list
    if (!fits_int(*id)) {
      report("int_parsing_size", fmt::format("{}.{}", loc, i), "Input should be an integer of 32 bits",
             &item);
      return std::nullopt;
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

std::optional<std::vector<int32_t>> FieldReader::token_ids(const char* key) {
  const Json* value = find(key);
  return value == nullptr ? std::nullopt : token_id_list(*value, body_loc(key));
}

std::optional<std::vector<std::string>> FieldReader::strings(const char* key, bool or_one) {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (or_one && value->is_string()) return std::vector<std::string>{value->get<std::string>()};
  if (!value->is_array()) {
    report("list_type", body_loc(key), "Input should be a valid list", value);
    return std::nullopt;
  }
  std::vector<std::string> texts;
  for (size_t i = 0; i < value->size(); ++i) {
    if (!(*value)[i].is_string()) {
      report("string_type", fmt::format("body.{}.{}", key, i), "Input should be a valid string",
             &(*value)[i]);
      return std::nullopt;
    }
    texts.push_back((*value)[i].get<std::string>());
  }
  return texts;
}

std::optional<std::vector<std::pair<int32_t, float>>> FieldReader::biases(const char* key) {
  const Json* value = object(key);
  if (value == nullptr) return std::nullopt;
  std::vector<std::pair<int32_t, float>> biases;
  for (const auto& [token, bias] : value->items()) {
    const std::string loc = fmt::format("body.{}.{}", key, token.substr(0, kShownStringBytes));
    const std::optional<int32_t> id = parse_whole<int32_t>(token);
    if (!id)
      report("int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer",
             &bias);
    const std::optional<double> number = to_number(bias, loc);
    if (id && number) biases.emplace_back(*id, static_cast<float>(*number));
  }
  return biases;
}

std::optional<std::vector<WeightedName>> FieldReader::weighted_names(const char* key) {
  const Json* list = array(key);
  if (list == nullptr) return std::nullopt;
  std::vector<WeightedName> names;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    const std::string loc = fmt::format("body.{}.{}", key, i);
    if (!item.is_object() || !item.contains("name") || !item["name"].is_string()) {
      report("missing", loc + ".name", "Field required: {\"name\": an adapter, \"weight\": a number}", &item);
      continue;
    }
    WeightedName& name = names.emplace_back(WeightedName{.name = item["name"].get<std::string>()});
    if (!item.contains("weight") || item["weight"].is_null()) continue;
    name.weight = static_cast<float>(to_number(item["weight"], loc + ".weight").value_or(1.0));
  }
  return names;
}

}  // namespace polylora
