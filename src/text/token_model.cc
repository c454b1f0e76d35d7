#include "text/token_model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/bpe.h"
#include "text/unigram.h"

namespace polylora {

std::unique_ptr<TokenModel> make_token_model(const TokenizerJson& file) {
  const auto model = file.rest.find("model");
  if (model == file.rest.end() || !model->is_object())
    fail(ErrorCode::kDataCorrupt, "tokenizer JSON has no 'model' object");
  const std::string type = json_string(*model, "type", "BPE");
  if (type == "BPE") return std::make_unique<Bpe>(file);
  if (type == "Unigram") return std::make_unique<Unigram>(*model);
  fail(ErrorCode::kUnsupported, "tokenizer model '{}' is not supported; known: BPE, Unigram", type);
}

std::vector<int32_t> byte_token_ids(const Vocab& vocab) {
  std::vector<int32_t> ids;
  for (int byte = 0; byte < 256; ++byte) ids.push_back(vocab.find(fmt::format("<0x{:02X}>", byte)));
  return ids;
}

}  // namespace polylora
