// libFuzzer: any bytes as SentencePiece's table of replacements, and a text through what loads: valid UTF-8
// or an Error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/base64.h"
#include "base/error.h"
#include "text/precompiled_normalizer.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string_view text = input.substr(0, data[0]);  // a byte of its length, the text, the table
  try {
    const polylora::PrecompiledNormalizer normalizer(
        {{"precompiled_charsmap", polylora::base64_encode(input.substr(text.size()))}});
    if (!polylora::is_valid_utf8(normalizer.apply(polylora::to_valid_utf8(text)))) std::abort();
  } catch (const polylora::Error&) {
  }
  return 0;
}
