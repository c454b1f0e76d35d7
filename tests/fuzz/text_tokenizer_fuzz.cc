// libFuzzer: arbitrary tokenizer.json, then arbitrary text and ids through whatever loads. Error or success
// only.
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');  // JSON, a NUL, text
  const std::string_view text = cut == std::string_view::npos ? input : input.substr(cut + 1);
  try {
    const auto tokenizer = polylora::Tokenizer::from_json(input.substr(0, cut));
    const std::vector<int32_t> ids = tokenizer->encode(text, true);
    tokenizer->decode(ids, true);
    polylora::StreamDecoder stream(*tokenizer, false);
    for (const int32_t id : ids) stream.push(id);
    for (const char c : text) {
      stream.push(static_cast<uint8_t>(c));
      tokenizer->token_bytes(static_cast<uint8_t>(c));
    }
    stream.flush();
  } catch (const polylora::Error&) {
  }
  return 0;
}
