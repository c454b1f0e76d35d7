#include "io/gguf_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/sentencepiece.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

// tokenizer.ggml.token_type
constexpr int64_t kTypeControl = 3;
constexpr int64_t kTypeUserDefined = 4;

constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kTekkenRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(std::vector<Json> parts) {
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

Json digits_then_bytes() {
  return sequence({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)});
}

Json split_then_bytes(std::string_view regex) {
  return sequence(
      {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}},
       byte_level(false)});
}

Json bytes_only() {
  return byte_level(true);
}
Json llama3_split() {
  return split_then_bytes(kLlama3Regex);
}
Json qwen2_split() {
  return split_then_bytes(kQwen2Regex);
}
Json tekken_split() {
  return split_then_bytes(kTekkenRegex);
}

/// What tokenizer.ggml.pre stands for (llama.cpp's llama_vocab::impl::load). A new one is a new row.
struct PreTokenizerRow {
  std::string_view name;
  Json (*make)();
  bool nfc;
  bool ignore_merges;
  bool add_bos;  // where the file does not say
};

constexpr PreTokenizerRow kPreTokenizers[] = {
    {"smollm", digits_then_bytes, false, false, false}, {"gpt-2", bytes_only, false, false, false},
    {"default", bytes_only, false, false, false},       {"llama-bpe", llama3_split, false, true, true},
    {"llama3", llama3_split, false, true, true},        {"qwen2", qwen2_split, true, false, false},
    {"tekken", tekken_split, false, true, true},        {"deepseek-r1-qwen", qwen2_split, true, false, true},
};

const PreTokenizerRow& find_pre_tokenizer(const std::string& name, const std::string& file) {
  std::vector<std::string_view> known;
  for (const PreTokenizerRow& row : kPreTokenizers) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.pre '{}' is not supported; known: {}", file, name,
       fmt::join(known, ", "));
}

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

/// Equal apart from trim_offsets, which moves offsets and no tokens.
bool splits_alike(nlohmann::json a, nlohmann::json b) {
  const auto simplify = [](nlohmann::json& json, const auto& self) -> void {
    if (json.is_object()) json.erase("trim_offsets");
    if (json.is_structured()) {
      for (nlohmann::json& child : json) self(child, self);
    }
  };
  simplify(a, simplify);
  simplify(b, simplify);
  return a == b;
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
                        const PreTokenizerRow& row, const std::string& bos) {
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(gguf, tokens)},
      {"normalizer", row.nfc ? Json{{"type", "NFC"}} : Json(nullptr)},
      {"pre_tokenizer", row.make()},
      {"post_processor",
       bos.empty() ? Json(nullptr) : bos_processor(bos, gguf.get<int64_t>("tokenizer.ggml.bos_token_id"))},
      {"decoder", byte_level(true)},
      {"model",
       bpe_model(tokens, gguf.get<std::vector<std::string>>("tokenizer.ggml.merges"), row.ignore_merges)},
  };
}

int64_t token_id(const GgufFile& gguf, const char* key) {
  const int64_t* id = gguf.find<int64_t>(key);
  return id == nullptr ? -1 : *id;
}

/// tokenizer.ggml.model "llama": a SentencePiece vocabulary with scores instead of merges.
SentencePieces read_pieces(const GgufFile& gguf, const std::vector<std::string>& tokens) {
  const std::string file = gguf.file().path().string();
  const auto& scores = gguf.get<std::vector<double>>("tokenizer.ggml.scores");
  const auto& types = gguf.get<std::vector<int64_t>>("tokenizer.ggml.token_type");
  if (scores.size() != tokens.size() || types.size() != tokens.size())
    fail(ErrorCode::kDataCorrupt, "{}: tokenizer.ggml: tokens, scores and token_type differ in length", file);
  SentencePieces out;
  out.add_dummy_prefix = flag(gguf, "tokenizer.ggml.add_space_prefix", true);
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
  if (*kind != "gpt2" && *kind != "llama") {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.model '{}' is not supported; known: gpt2, llama", file,
         *kind);
  }

  const auto& tokens = read_tokens(gguf, vocab_size);
  text.bos_token = named_token(gguf, tokens, "tokenizer.ggml.bos_token_id");
  text.eos_token = named_token(gguf, tokens, "tokenizer.ggml.eos_token_id");
  bool with_bos = false;
  if (*kind == "llama") {
    with_bos = flag(gguf, "tokenizer.ggml.add_bos_token", true) && !text.bos_token.empty();
    const bool with_eos = flag(gguf, "tokenizer.ggml.add_eos_token", false);
    text.tokenizer_json = to_text(sentencepiece_tokenizer(read_pieces(gguf, tokens), with_bos, with_eos));
  } else {
    const std::string* pre = gguf.find<std::string>("tokenizer.ggml.pre");
    const PreTokenizerRow& row = find_pre_tokenizer(pre == nullptr ? "default" : *pre, file);
    with_bos = flag(gguf, "tokenizer.ggml.add_bos_token", row.add_bos) && !text.bos_token.empty();
    text.tokenizer_json = to_text(byte_bpe_tokenizer(gguf, tokens, row, with_bos ? text.bos_token : ""));
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
  const nlohmann::json wanted = tokenizer.value("pre_tokenizer", nlohmann::json());
  for (const PreTokenizerRow& row : kPreTokenizers) {
    if (splits_alike(wanted, nlohmann::json(row.make()))) return std::string(row.name);
  }
  fail(ErrorCode::kUnsupported,
       "{}: this pre-tokenizer has no GGUF name; export safetensors and convert the folder with llama.cpp",
       where);
}

}  // namespace polylora
