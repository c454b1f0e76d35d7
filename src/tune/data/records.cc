#include "tune/data/records.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"
#include "tune/data/record_converter.h"
#include "tune/data/seeded_order.h"

namespace polylora {
namespace {

std::string_view without_bom(std::string_view text) {
  constexpr std::string_view kBom = "\xEF\xBB\xBF";
  return text.starts_with(kBom) ? text.substr(kBom.size()) : text;
}

/// Calls line(number from 1, text) for every line that is not blank.
template <typename Line>
void for_each_line(std::string_view text, Line&& line) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view content = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (content.ends_with('\r')) content.remove_suffix(1);
    if (content.find_first_not_of(" \t") != std::string_view::npos) line(number, content);
  }
}

std::vector<RawRecord> parse_text_lines(std::string_view text, const std::string& where) {
  std::vector<RawRecord> records;
  for_each_line(text, [&](int64_t number, std::string_view line) {
    records.push_back({where, number, {{"text", std::string(line)}}});
  });
  return records;
}

std::vector<RawRecord> parse_json_text(std::string_view text, const std::string& where) {
  text = without_bom(text);
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) fail(ErrorCode::kDataCorrupt, "{}: the file is empty", where);
  std::vector<RawRecord> records;
  if (text[first] != '[') {
    for_each_line(text, [&](int64_t number, std::string_view line) {
      records.push_back({where, number, parse_json(line, fmt::format("{}: row {}", where, number))});
    });
    return records;
  }
  nlohmann::json all = parse_json(text, where);
  int64_t number = 0;
  for (nlohmann::json& record : all) records.push_back({where, ++number, std::move(record)});
  return records;
}

/// One bound of a slice: empty, "10", "-10" or "10%".
int64_t slice_bound(std::string_view text, int64_t size, int64_t fallback, const std::string& where) {
  if (text.empty()) return fallback;
  const bool percent = text.ends_with('%');
  if (percent) text.remove_suffix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  constexpr int64_t kMost = 1'000'000'000;
  if (error != std::errc() || end != text.data() + text.size() || value > kMost || value < -kMost)
    fail(ErrorCode::kInvalidArgument, "{}: split has a bound that is no number", where);
  if (percent) value = (value * size + (value < 0 ? -50 : 50)) / 100;
  return std::clamp<int64_t>(value < 0 ? value + size : value, 0, size);
}

void take_split(std::vector<RawRecord>& records, const DatasetInfo& info) {
  if (info.split == "train") return;
  const std::string where = fmt::format("dataset '{}'", info.name);
  const std::string_view split = info.split;
  const size_t colon = split.find(':');
  if (!split.starts_with("train[") || !split.ends_with(']') || colon == std::string_view::npos) {
    fail(ErrorCode::kInvalidArgument,
         "{}: split '{}' does not exist; a file has the split 'train' and slices of it such as 'train[:100]'",
         where, split);
  }
  const auto size = static_cast<int64_t>(records.size());
  const int64_t begin = slice_bound(split.substr(6, colon - 6), size, 0, where);
  const int64_t end = slice_bound(split.substr(colon + 1, split.size() - colon - 2), size, size, where);
  records.erase(records.begin() + std::max(begin, end), records.end());
  records.erase(records.begin(), records.begin() + begin);
}

void draw_samples(std::vector<RawRecord>& records, int64_t count, int64_t seed) {
  std::vector<RawRecord> drawn;
  const std::vector<size_t> order = seeded_order(records.size(), seed);
  for (const size_t index : order) {
    if (static_cast<int64_t>(drawn.size()) < count) drawn.push_back(records[index]);
  }
  const SeededPicks picks(seed);
  for (uint64_t i = 0; static_cast<int64_t>(drawn.size()) < count && !records.empty(); ++i)
    drawn.push_back(records[picks.below(records.size(), i)]);
  records = std::move(drawn);
}

DatasetRecords convert(const std::vector<RawRecord>& records, const DatasetInfo& info, Stage stage) {
  const RecordConverter converter(info, stage);
  DatasetRecords result;
  result.taken = static_cast<int64_t>(records.size());
  for (const RawRecord& record : records) {
    Conversation conversation;
    const std::string reason = converter.convert(record, conversation);
    if (reason.empty())
      result.conversations.push_back(std::move(conversation));
    else
      ++result.dropped[reason];
  }
  return result;
}

}  // namespace

DatasetRecords read_records(const DatasetInfo& info, Stage stage, int64_t max_samples, int64_t seed) {
  std::vector<RawRecord> records;
  for (const std::filesystem::path& file : info.files) {
    const std::string text = read_text_file(file, size_t{1} << 34);
    const std::string where = file.string();
    std::vector<RawRecord> more =
        file.extension() == ".txt" ? parse_text_lines(text, where) : parse_json_text(text, where);
    std::move(more.begin(), more.end(), std::back_inserter(records));
  }
  const auto in_files = static_cast<int64_t>(records.size());
  check_columns_occur(records, info);
  take_split(records, info);
  if (info.num_samples) draw_samples(records, *info.num_samples, seed);
  if (max_samples > 0 && static_cast<int64_t>(records.size()) > max_samples)
    records.resize(static_cast<size_t>(max_samples));
  DatasetRecords result = convert(records, info, stage);
  result.in_files = in_files;
  return result;
}

DatasetRecords parse_records(std::string_view text, const std::string& where, const DatasetInfo& info,
                             Stage stage) {
  const std::vector<RawRecord> records = parse_json_text(text, where);
  check_columns_occur(records, info);
  DatasetRecords result = convert(records, info, stage);
  result.in_files = result.taken;
  return result;
}

}  // namespace polylora
