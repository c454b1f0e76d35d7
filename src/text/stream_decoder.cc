#include "text/stream_decoder.h"

#include "text/tokenizer.h"

namespace polylora {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      chain_(tokenizer.decode_chain(DecodeMode::kStream)) {}

std::string StreamDecoder::push(int32_t id) {
  std::string out;
  if (skip_special_tokens_ && tokenizer_.is_special(id)) return out;
  if (const std::string token = tokenizer_.token_string(id); !token.empty()) chain_.push(token, out);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out;
  chain_.finish(out);
  chain_ = tokenizer_.decode_chain(DecodeMode::kStream);
  return out;
}

}  // namespace polylora
