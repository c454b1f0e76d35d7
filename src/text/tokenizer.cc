#include "text/tokenizer.h"

#include <charconv>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/token_model.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace polylora {

using nlohmann::json;

struct Tokenizer::Impl {
  explicit Impl(const TokenizerJson& file) : model(make_token_model(file)) {}

  std::unique_ptr<const TokenModel> model;
  AddedTokens added;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  SpecialFrame frame;
  std::vector<std::unique_ptr<DecodeStage>> decoder;
  std::optional<std::string> bos, eos;

  void encode_plain(std::string text, bool at_start, TokenModel::Scratch& scratch,
                    std::vector<int32_t>& out) const;
  void encode_normalized(std::string text, bool at_start, TokenModel::Scratch& scratch,
                         std::vector<int32_t>& out) const;
};

namespace {

const json& member(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

AddedToken parse_added_token(const json& entry, int64_t id) {
  if (!entry.is_object()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: an added token is not an object");
  AddedToken token;
  token.content = json_required_string(entry, "content", "added token");
  token.id = static_cast<int32_t>(json_int(entry, "id", id, 0, (1 << 24) - 1));
  token.special = json_flag(entry, "special", false);
  token.normalized = json_flag(entry, "normalized", !token.special);
  token.single_word = json_flag(entry, "single_word", false);
  token.lstrip = json_flag(entry, "lstrip", false);
  token.rstrip = json_flag(entry, "rstrip", false);
  return token;
}

/// The model's own id for that spelling wins over what the list says, as in HF.
void add_token(AddedToken token, const Vocab& vocab, AddedTokens& added) {
  if (const int32_t id = vocab.find(token.content); id >= 0) token.id = id;
  added.add(std::move(token));
}

void read_added_tokens(const json& root, const Vocab& vocab, AddedTokens& added) {
  const json& list = member(root, "added_tokens");
  if (list.is_null()) return;
  if (!list.is_array()) fail(ErrorCode::kDataCorrupt, "tokenizer JSON: 'added_tokens' is not a list");
  for (const json& entry : list) add_token(parse_added_token(entry, -1), vocab, added);
}

void read_config_tokens(const json& config, const Vocab& vocab, AddedTokens& added) {
  const json& table = member(config, "added_tokens_decoder");
  if (!table.is_object()) return;
  for (const auto& [key, entry] : table.items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      fail(ErrorCode::kDataCorrupt, "tokenizer_config.json: added token id '{}' is not a number", key);
    }
    add_token(parse_added_token(entry, id), vocab, added);
  }
}

/// A named token is a string or an AddedToken object.
std::optional<std::string> named_token(const json& config, const char* key) {
  const json& value = member(config, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && member(value, "content").is_string())
    return member(value, "content").get<std::string>();
  return std::nullopt;
}

void mark_named_special(const json& config, const Vocab& vocab, AddedTokens& added) {
  for (const char* key :
       {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    const auto name = named_token(config, key);
    if (!name || name->empty()) continue;
    if (const int32_t id = vocab.find(*name); id >= 0 && added.by_content(*name) == nullptr) {
      AddedToken token;
      token.content = *name;
      token.id = id;
      token.normalized = false;
      added.add(std::move(token));
    }
    added.mark_special(*name);
  }
}

/// The Llama and Gemma classes of transformers build their template from these two flags; others keep the
/// file's.
void apply_bos_flags(const json& config, const Tokenizer& tokenizer, SpecialFrame& frame) {
  const std::string name = json_string(config, "tokenizer_class", "");
  if (!name.starts_with("LlamaTokenizer") && !name.starts_with("GemmaTokenizer") &&
      !name.starts_with("CodeLlamaTokenizer")) {
    return;
  }
  const auto set = [&](const char* key, const std::optional<std::string>& token, std::vector<int32_t>& ids) {
    if (!member(config, key).is_boolean()) return;
    ids.clear();
    if (!json_flag(config, key, false) || !token) return;
    if (const auto id = tokenizer.token_to_id(*token)) ids.push_back(*id);
  };
  set("add_bos_token", tokenizer.bos_token(), frame.before);
  set("add_eos_token", tokenizer.eos_token(), frame.after);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json,
                                                std::string_view tokenizer_config_json) {
  const TokenizerJson file = read_tokenizer_json(tokenizer_json);
  auto impl = std::make_unique<Impl>(file);
  impl->normalizer = make_normalizer(member(file.rest, "normalizer"));
  impl->pre_tokenizer = make_pre_tokenizer(member(file.rest, "pre_tokenizer"));
  impl->frame = make_special_frame(member(file.rest, "post_processor"));
  impl->decoder = make_decode_stages(member(file.rest, "decoder"));
  read_added_tokens(file.rest, impl->model->vocab(), impl->added);

  json config = json::object();
  if (!tokenizer_config_json.empty()) config = read_tokenizer_json(tokenizer_config_json).rest;
  read_config_tokens(config, impl->model->vocab(), impl->added);
  mark_named_special(config, impl->model->vocab(), impl->added);
  impl->bos = named_token(config, "bos_token");
  impl->eos = named_token(config, "eos_token");
  impl->added.build(impl->normalizer.get());

  Impl& draft = *impl;
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(impl)));
  apply_bos_flags(config, *tokenizer, draft.frame);
  return tokenizer;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

void Tokenizer::Impl::encode_normalized(std::string text, bool at_start, TokenModel::Scratch& scratch,
                                        std::vector<int32_t>& out) const {
  Words words;
  words.ranges.push_back({0, text.size(), at_start});
  words.text = std::move(text);
  if (pre_tokenizer) pre_tokenizer->apply(words);
  for (size_t i = 0; i < words.ranges.size(); ++i) model->encode_word(words[i], scratch, out);
}

void Tokenizer::Impl::encode_plain(std::string text, bool at_start, TokenModel::Scratch& scratch,
                                   std::vector<int32_t>& out) const {
  if (normalizer) text = normalizer->apply(std::move(text));
  if (added.normalized().empty()) {
    encode_normalized(std::move(text), at_start, scratch, out);
    return;
  }
  for (const TextSpan& span : added.normalized().cut(text)) {
    if (span.id >= 0) {
      out.push_back(span.id);
    } else {
      encode_normalized(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0, scratch,
                        out);
    }
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = to_valid_utf8(text);
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 8);
  if (add_special_tokens) out = impl_->frame.before;
  const std::unique_ptr<TokenModel::Scratch> scratch = impl_->model->make_scratch();
  for (const TextSpan& span : impl_->added.raw().cut(text)) {
    if (span.id >= 0) {
      out.push_back(span.id);
    } else {
      impl_->encode_plain(std::string(text.substr(span.begin, span.end - span.begin)), span.begin == 0,
                          *scratch, out);
    }
  }
  if (add_special_tokens) out.insert(out.end(), impl_->frame.after.begin(), impl_->frame.after.end());
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecodeChain chain(impl_->decoder, DecodeMode::kWhole);
  std::string out;
  for (const int32_t id : ids) {
    if (skip_special_tokens && is_special(id)) continue;
    if (const AddedToken* token = impl_->added.by_id(id)) {
      chain.push(token->content, out);
    } else if (impl_->model->vocab().contains(id)) {
      chain.push(impl_->model->vocab().spelling(id), out);
    }
  }
  chain.finish(out);
  return out;
}

int Tokenizer::vocab_size() const {
  return std::max(impl_->model->vocab().size(), impl_->added.max_id() + 1);
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = impl_->added.by_content(token)) return added->id;
  const int32_t id = impl_->model->vocab().find(token);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

std::string Tokenizer::token_string(int32_t id) const {
  if (const AddedToken* token = impl_->added.by_id(id)) return token->content;
  return std::string(impl_->model->vocab().spelling(id));
}

std::string Tokenizer::token_bytes(int32_t id) const {
  std::string bytes = token_string(id);
  for (const auto& stage : impl_->decoder) bytes = stage->token_bytes(std::move(bytes));
  return bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = impl_->added.by_id(id);
  return token != nullptr && token->special;
}

const std::optional<std::string>& Tokenizer::bos_token() const {
  return impl_->bos;
}
const std::optional<std::string>& Tokenizer::eos_token() const {
  return impl_->eos;
}

DecodeChain Tokenizer::decode_chain(DecodeMode mode) const {
  return DecodeChain(impl_->decoder, mode);
}

}  // namespace polylora
