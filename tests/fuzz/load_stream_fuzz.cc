// libFuzzer: the body of a streamed completion. The first byte is the size of the pieces it arrives in, which
// must not matter. Error or success only.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "load/stream_recorder.h"

namespace {

struct Outcome {
  std::string error;
  std::string text;
  int tokens = 0;

  bool operator==(const Outcome&) const = default;
};

Outcome replay(std::string_view body, size_t piece) {
  polylora::RequestRecord record;
  Outcome outcome;
  try {
    polylora::StreamRecorder recorder(record, true);
    for (; !body.empty(); body.remove_prefix(std::min(piece, body.size())))
      recorder.feed(body.substr(0, piece), 1);
    recorder.finish();
  } catch (const polylora::Error& error) {
    if (error.code() == polylora::ErrorCode::kInternal) __builtin_trap();
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) __builtin_trap();
    outcome.error = error.what();
  }
  outcome.text = record.text;
  outcome.tokens = record.output_tokens;
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = data[0] == 0 ? 1 : data[0];
  if (!(replay(body, piece) == replay(body, body.size() + 1))) __builtin_trap();
  polylora::describe_error(body);
  return 0;
}
