#include "io/json_file.h"

#include <set>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/file.h"

namespace polylora {
namespace {

constexpr int kMaxDepth = 64;

// Only the position of a syntax error is passed on: nlohmann's message quotes the input, which may be long
// and need not be UTF-8.
template <typename Json>
Json parse(std::string_view text, std::string_view where, const typename Json::parser_callback_t& callback) {
  try {
    return Json::parse(text, callback);
  } catch (const typename Json::parse_error& error) {
    fail(ErrorCode::kDataCorrupt, "{}: not valid JSON (at byte {})", where, error.byte);
  } catch (const typename Json::exception&) {
    fail(ErrorCode::kDataCorrupt, "{}: not valid JSON (a number is out of range)", where);
  }
}

void check_depth(int depth, std::string_view where) {
  if (depth > kMaxDepth) fail(ErrorCode::kDataCorrupt, "{}: JSON nested deeper than {}", where, kMaxDepth);
}

template <typename Json>
Json parse_with_depth_limit(std::string_view text, std::string_view where) {
  return parse<Json>(text, where, [where](int depth, typename Json::parse_event_t, Json&) {
    check_depth(depth, where);
    return true;
  });
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view where) {
  return parse_with_depth_limit<nlohmann::json>(text, where);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view where) {
  return parse_with_depth_limit<nlohmann::ordered_json>(text, where);
}

nlohmann::json parse_json_unique(std::string_view text, std::string_view where) {
  using Json = nlohmann::json;
  std::set<std::string> seen;
  return parse<Json>(text, where, [&](int depth, Json::parse_event_t event, Json& value) {
    check_depth(depth, where);
    const bool is_top_level_key = event == Json::parse_event_t::key && depth == 1;
    if (is_top_level_key && !seen.insert(value.get<std::string>()).second) {
      fail(ErrorCode::kDataCorrupt, "{}: the name {} occurs twice", where, value.get<std::string>());
    }
    return true;
  });
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_text_file(path), path.string());
}

nlohmann::json read_json_object_if_present(const std::filesystem::path& path) {
  if (!path_exists(path)) return nlohmann::json::object();
  nlohmann::json value = read_json_file(path);
  if (!value.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", path.string());
  return value;
}

bool path_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace polylora
