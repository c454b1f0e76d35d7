#include "io/json_file.h"

#include "base/error.h"
#include "base/file.h"

namespace polylora {
namespace {

constexpr int kMaxDepth = 64;

template <typename Json>
Json parse(std::string_view text, std::string_view where) {
  const auto limit_depth = [&](int depth, typename Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fail(ErrorCode::kDataCorrupt, "{}: JSON nested deeper than {}", where, kMaxDepth);
    return true;
  };
  try {
    return Json::parse(text, limit_depth);
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kDataCorrupt, "{}: not valid JSON: {}", where, error.what());
  }
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view where) {
  return parse<nlohmann::json>(text, where);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view where) {
  return parse<nlohmann::ordered_json>(text, where);
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_text_file(path), path.string());
}

}  // namespace polylora
