#include "io/gguf_tokenizer.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/gguf_pre_tokenizers.h"
#include "io/sentencepiece.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

// tokenizer.ggml.token_type
constexpr int64_t kTypeControl = 3;
constexpr int64_t kTypeUserDefined = 4;

Json added_token(int64_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// TemplateProcessing that puts the bos token in front, as add_bos_token asks.
Json bos_processor(const std::string& bos, int64_t bos_id) {
  const Json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({special, text})},
          {"pair", Json::array({special, text})},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", {bos_id}}, {"tokens", {bos}}}}}}};
}

/// The string of a token that the metadata names by id; empty when absent.
std::string named_token(const GgufFile& gguf, const std::vector<std::string>& tokens, const char* key) {
  const int64_t* id = gguf.find<int64_t>(key);
  if (id == nullptr) return {};
  if (*id < 0 || *id >= static_cast<int64_t>(tokens.size())) {
    fail(ErrorCode::kDataCorrupt, "{}: {} is outside the vocabulary", gguf.file().path().string(), key);
  }
  return tokens[static_cast<size_t>(*id)];
}

/// Of a token that only training and padding use, so that a senseless id does not make the file unreadable.
std::string optional_token(const GgufFile& gguf, const std::vector<std::string>& tokens, const char* key) {
  const int64_t* id = gguf.find<int64_t>(key);
  const bool known = id != nullptr && *id >= 0 && *id < static_cast<int64_t>(tokens.size());
  return known ? tokens[static_cast<size_t>(*id)] : std::string();
}

Json bpe_model(const std::vector<std::string>& tokens, const std::vector<std::string>& merges,
               bool ignore_merges) {
  Json vocab = Json::object();
  auto& members = vocab.get_ref<Json::object_t&>();  // ordered_json looks keys up linearly; append instead
  members.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) members.emplace_back(tokens[id], id);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", ignore_merges},
          {"vocab", std::move(vocab)},
          {"merges", merges}};
}

Json added_tokens(const GgufFile& gguf, const std::vector<std::string>& tokens) {
  Json added = Json::array();
  const auto* types = gguf.find<std::vector<int64_t>>("tokenizer.ggml.token_type");
  for (size_t id = 0; types != nullptr && id < std::min(types->size(), tokens.size()); ++id) {
    const int64_t type = (*types)[id];
    if (type == kTypeControl || type == kTypeUserDefined)
      added.push_back(added_token(static_cast<int64_t>(id), tokens[id], type == kTypeControl));
  }
  return added;
}

const std::vector<std::string>& read_tokens(const GgufFile& gguf, int vocab_size) {
  const auto& tokens = gguf.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  if (tokens.size() > static_cast<size_t>(vocab_size)) {
    fail(ErrorCode::kDataCorrupt, "{}: {} tokens, but the model's vocabulary has {}",
         gguf.file().path().string(), tokens.size(), vocab_size);
  }
  return tokens;
}

std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool flag(const GgufFile& gguf, const char* key, bool fallback) {
  const bool* value = gguf.find<bool>(key);
  return value == nullptr ? fallback : *value;
}

/// tokenizer.ggml.model "gpt2": BPE over bytes. Returns tokenizer.json.
Json byte_bpe_tokenizer(const GgufFile& gguf, const std::vector<std::string>& tokens,
                        const GgufPreTokenizer& pre, const std::string& bos) {
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(gguf, tokens)},
      {"normalizer", pre.nfc ? Json{{"type", "NFC"}} : Json(nullptr)},
      {"pre_tokenizer", pre.to_json()},
      {"post_processor",
       bos.empty() ? Json(nullptr) : bos_processor(bos, gguf.get<int64_t>("tokenizer.ggml.bos_token_id"))},
      {"decoder",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       bpe_model(tokens, gguf.get<std::vector<std::string>>("tokenizer.ggml.merges"), pre.ignore_merges)},
  };
}

int64_t token_id(const GgufFile& gguf, const char* key) {
  const int64_t* id = gguf.find<int64_t>(key);
  return id == nullptr ? -1 : *id;
}

/// The bytes of an array of numbers; empty when absent.
std::string byte_array(const GgufFile& gguf, const char* key) {
  const auto* values = gguf.find<std::vector<int64_t>>(key);
  std::string bytes;
  for (size_t i = 0; values != nullptr && i < values->size(); ++i) {
    const int64_t value = (*values)[i];
    if (value < -128 || value > 255)
      fail(ErrorCode::kDataCorrupt, "{}: {} is not an array of bytes", gguf.file().path().string(), key);
    bytes += static_cast<char>(value);
  }
  return bytes;
}

/// tokenizer.ggml.model "llama" and "t5": SentencePiece vocabularies, of BPE without merges and of Unigram.
SentencePieces read_pieces(const GgufFile& gguf, const std::vector<std::string>& tokens, bool unigram) {
  const std::string file = gguf.file().path().string();
  const auto& scores = gguf.get<std::vector<double>>("tokenizer.ggml.scores");
  const auto& types = gguf.get<std::vector<int64_t>>("tokenizer.ggml.token_type");
  if (scores.size() != tokens.size() || types.size() != tokens.size())
    fail(ErrorCode::kDataCorrupt, "{}: tokenizer.ggml: tokens, scores and token_type differ in length", file);
  SentencePieces out;
  out.unigram = unigram;
  out.charsmap = byte_array(gguf, "tokenizer.ggml.precompiled_charsmap");
  out.remove_extra_whitespaces = flag(gguf, "tokenizer.ggml.remove_extra_whitespaces", false);
  out.add_dummy_prefix = flag(gguf, "tokenizer.ggml.add_space_prefix", !unigram);
  out.unknown_id = token_id(gguf, "tokenizer.ggml.unknown_token_id");
  out.bos_id = token_id(gguf, "tokenizer.ggml.bos_token_id");
  out.eos_id = token_id(gguf, "tokenizer.ggml.eos_token_id");
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] < 1 || types[id] > 6)
      fail(ErrorCode::kDataCorrupt, "{}: tokenizer.ggml.token_type of token {} is {}", file, id, types[id]);
    out.pieces.push_back({tokens[id], static_cast<float>(scores[id]), static_cast<PieceType>(types[id])});
  }
  return out;
}

}  // namespace

void read_gguf_tokenizer(const GgufFile& gguf, int vocab_size, TextAssets& text) {
  const std::string file = gguf.file().path().string();
  if (const std::string* source = gguf.find<std::string>("tokenizer.chat_template"))
    text.chat_template = *source;
  const std::string* kind = gguf.find<std::string>("tokenizer.ggml.model");
  if (kind == nullptr || *kind == "none" || *kind == "no_vocab") return;
  if (*kind != "gpt2" && *kind != "llama" && *kind != "t5") {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.model '{}' is not supported; known: gpt2, llama, t5",
         file, *kind);
  }

  const auto& tokens = read_tokens(gguf, vocab_size);
  text.bos_token = named_token(gguf, tokens, "tokenizer.ggml.bos_token_id");
  text.eos_token = named_token(gguf, tokens, "tokenizer.ggml.eos_token_id");
  bool with_bos = false;
  if (*kind != "gpt2") {
    const bool unigram = *kind == "t5";  // which ends texts where the other begins them, unless the file says
    with_bos = flag(gguf, "tokenizer.ggml.add_bos_token", !unigram) && !text.bos_token.empty();
    const bool with_eos = flag(gguf, "tokenizer.ggml.add_eos_token", unigram);
    text.tokenizer_json =
        to_text(sentencepiece_tokenizer(read_pieces(gguf, tokens, unigram), with_bos, with_eos));
  } else {
    const std::string* name = gguf.find<std::string>("tokenizer.ggml.pre");
    const GgufPreTokenizer& pre = find_gguf_pre_tokenizer(name == nullptr ? "default" : *name, file);
    with_bos = flag(gguf, "tokenizer.ggml.add_bos_token", pre.add_bos) && !text.bos_token.empty();
    text.tokenizer_json = to_text(byte_bpe_tokenizer(gguf, tokens, pre, with_bos ? text.bos_token : ""));
  }
  Json config = {{"add_bos_token", with_bos}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  const std::pair<const char*, std::string> named[] = {
      {"bos_token", text.bos_token},
      {"eos_token", text.eos_token},
      {"unk_token", optional_token(gguf, tokens, "tokenizer.ggml.unknown_token_id")},
      {"pad_token", optional_token(gguf, tokens, "tokenizer.ggml.padding_token_id")},
  };
  for (const auto& [key, token] : named) {
    if (!token.empty()) config[key] = token;
  }
  text.tokenizer_config_json = to_text(config);
}

std::string gguf_pre_tokenizer_name(const nlohmann::json& tokenizer, const std::string& where) {
  const std::string_view name =
      gguf_name_of_pre_tokenizer(tokenizer.value("pre_tokenizer", nlohmann::json()));
  if (!name.empty()) return std::string(name);
  fail(ErrorCode::kUnsupported,
       "{}: this pre-tokenizer has no GGUF name; export safetensors and convert the folder with llama.cpp",
       where);
}

}  // namespace polylora
