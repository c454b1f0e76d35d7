#include "load/sse_reader.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kField = "data";

}  // namespace

SseReader::SseReader(EventFn on_event, size_t max_event_bytes)
    : on_event_(std::move(on_event)), max_event_bytes_(max_event_bytes) {}

void SseReader::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    if (std::exchange(after_cr_, false) && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      continue;
    }
    const size_t end = std::min(bytes.find_first_of("\r\n"), bytes.size());
    if (line_.size() + data_.size() + end > max_event_bytes_)
      fail(ErrorCode::kDataCorrupt, "an event of the stream has more than {} bytes", max_event_bytes_);
    line_.append(bytes.substr(0, end));
    if (end == bytes.size()) return;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    end_line();
  }
}

void SseReader::finish() {
  if (!line_.empty()) end_line();
  dispatch();
}

void SseReader::end_line() {
  std::string_view line = line_;
  if (std::exchange(first_line_, false) && line.starts_with(kByteOrderMark))
    line.remove_prefix(kByteOrderMark.size());
  if (line.empty()) {
    dispatch();
  } else if (line.starts_with(kField) && (line.size() == kField.size() || line[kField.size()] == ':')) {
    line.remove_prefix(std::min(line.size(), kField.size() + 1));
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (std::exchange(has_data_, true)) data_ += '\n';
    data_ += line;
  }
  line_.clear();
}

void SseReader::dispatch() {
  if (std::exchange(has_data_, false)) on_event_(data_);
  data_.clear();
}

}  // namespace polylora
