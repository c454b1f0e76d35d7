// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as streams of
// completions use them: the `data` of each event.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace polylora {

/// Takes the bytes of a stream in pieces cut anywhere. Lines may end in LF, CRLF or CR; comments and fields
/// other than `data` are skipped; the data lines of one event are joined with LF.
class SseReader {
 public:
  /// Called with the data of each complete event that has some; the text is valid during the call.
  using EventFn = std::function<void(std::string_view data)>;

  /// Throws kDataCorrupt when one event grows beyond `max_event_bytes`.
  explicit SseReader(EventFn on_event, size_t max_event_bytes = size_t{16} << 20);

  void feed(std::string_view bytes);

  /// The stream is over. An event that lacks only its empty line counts: some servers leave the last one out.
  void finish();

 private:
  void end_line();
  void dispatch();

  EventFn on_event_;
  size_t max_event_bytes_;
  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_cr_ = false;   // a LF that follows belongs to it
  bool first_line_ = true;  // may begin with a byte order mark
};

}  // namespace polylora
