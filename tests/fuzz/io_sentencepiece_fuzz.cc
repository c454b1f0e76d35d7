// Any bytes as tokenizer.model, and what becomes of it as tokenizer.json.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "io/sentencepiece.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto pieces =
        polylora::parse_sentencepiece_model({reinterpret_cast<const char*>(data), size}, "tokenizer.model");
    polylora::sentencepiece_tokenizer(pieces, true, true)
        .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  } catch (const polylora::Error&) {
  }
  return 0;
}
