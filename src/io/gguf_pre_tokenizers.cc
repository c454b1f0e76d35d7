#include "io/gguf_pre_tokenizers.h"

#include <fmt/ranges.h>

#include <vector>

#include "base/error.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

// Two splits have components of their own in tokenizer.json.
constexpr std::string_view kDigits = R"(\p{N})";
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::string_view kGpt2Splits[] = {kGpt2};
constexpr std::string_view kDigitSplits[] = {kDigits, kGpt2};
constexpr std::string_view kDefaultSplits[] = {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)",
                                               "[0-9][0-9][0-9]"};
constexpr std::string_view kFalconSplits[] = {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, "[0-9][0-9][0-9]"};

constexpr std::string_view kLlama3Splits[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kQwen2Splits[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kQwen35Splits[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kMiniCpm5Splits[] = {
    R"(\p{N}{1,3})",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kBailingMoeSplits[] = {
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"};
constexpr std::string_view kSeedCoderSplits[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr std::string_view kTekkenSplits[] = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kGpt4oSplits[] = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr std::string_view kDeepseekLlmSplits[] = {
    "[\r\n]",
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ)"
    R"(ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛ)"
    R"(Ꜣ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)",
    R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)",
    R"(\s+$)",
    "[一-龥ࠀ-一가-퟿]+",
    R"(\p{N}+)"};
constexpr std::string_view kDeepseekCoderSplits[] = {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                                     "[一-龥ࠀ-一가-퟿]+", kDigits};
constexpr std::string_view kDeepseekV3Splits[] = {
    R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr std::string_view kBloomSplits[] = {R"( ?[^(\s|.,!?…。，、।۔،)]+)"};
constexpr std::string_view kVikingSplits[] = {kBloomSplits[0], kDigits};

// The first of several names for one splitting is what an export writes.
constexpr GgufPreTokenizer kPreTokenizers[] = {
    {"smollm", kDigitSplits},
    {"gpt-2", kGpt2Splits},
    {.name = "llama-bpe", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "qwen2", .splits = kQwen2Splits, .nfc = true},
    {.name = "qwen35", .splits = kQwen35Splits, .nfc = true},
    {.name = "tekken", .splits = kTekkenSplits, .ignore_merges = true, .add_bos = true},
    {"deepseek-v3", kDeepseekV3Splits},
    {"deepseek-llm", kDeepseekLlmSplits},
    {"deepseek-coder", kDeepseekCoderSplits},
    {"gpt-4o", kGpt4oSplits},
    {"falcon", kFalconSplits},
    {"default", kDefaultSplits},
    {"bailingmoe", kBailingMoeSplits},
    {"seed-coder", kSeedCoderSplits},
    {.name = "minicpm5", .splits = kMiniCpm5Splits, .ignore_merges = true},
    {"bloom", kBloomSplits},
    {"viking", kVikingSplits},

    {"starcoder", kDigitSplits},
    {"refact", kDigitSplits},
    {.name = "command-r", .splits = kDigitSplits, .nfc = true},
    {"codeshell", kDigitSplits},
    {"exaone", kDigitSplits},
    {"minerva-7b", kDigitSplits},
    {"mellum2", kDigitSplits},

    {"phi-2", kGpt2Splits},
    {.name = "mpt", .splits = kGpt2Splits, .nfc = true},
    {.name = "olmo", .splits = kGpt2Splits, .nfc = true},
    {"jais", kGpt2Splits},
    {"gigachat", kGpt2Splits},
    {"mellum", kGpt2Splits},
    {"a.x-4.0", kGpt2Splits},
    {"exaone4", kGpt2Splits},
    {"trillion", kGpt2Splits},
    {"granite-docling", kGpt2Splits},

    {.name = "llama3", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "falcon3", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "falcon-h1", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "pixtral", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "midm-2.0", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {.name = "lfm2", .splits = kLlama3Splits, .ignore_merges = true, .add_bos = true},
    {"dbrx", kLlama3Splits},
    {"smaug-bpe", kLlama3Splits},
    {"chatglm-bpe", kLlama3Splits},
    {.name = "glm4", .splits = kLlama3Splits, .ignore_merges = true},

    {.name = "deepseek-r1-qwen", .splits = kQwen2Splits, .nfc = true, .add_bos = true},
    {"kormo", kQwen2Splits},
    {"megrez", kQwen2Splits},
    {"stablelm2", kQwen2Splits},
    {"hunyuan", kQwen2Splits},
    {"solar-open", kQwen2Splits},

    {"hunyuan-dense", kDeepseekV3Splits},
    {"joyai-llm", kDeepseekV3Splits},

    {"llama4", kGpt4oSplits},
    {"kanana2", kGpt4oSplits},
    {"minimax-m2", kGpt4oSplits},

    {"bailingmoe2", kBailingMoeSplits},
    {"llada-moe", kBailingMoeSplits},
    {"poro-chat", kBloomSplits},
    {"gpt3-finnish", kBloomSplits},
};

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json split(std::string_view regex) {
  if (regex == kDigits) return {{"type", "Digits"}, {"individual_digits", true}};
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
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

}  // namespace

Json GgufPreTokenizer::to_json() const {
  const bool ends_as_gpt2 = splits.back() == kGpt2;  // which ByteLevel does itself
  const auto before = splits.first(splits.size() - (ends_as_gpt2 ? 1 : 0));
  if (before.empty()) return byte_level(ends_as_gpt2);
  Json parts = Json::array();
  for (const std::string_view regex : before) parts.push_back(split(regex));
  parts.push_back(byte_level(ends_as_gpt2));
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

const GgufPreTokenizer& find_gguf_pre_tokenizer(std::string_view name, const std::string& file) {
  std::vector<std::string_view> known;
  for (const GgufPreTokenizer& row : kPreTokenizers) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.pre '{}' is not supported; known: {}", file, name,
       fmt::join(known, ", "));
}

std::string_view gguf_name_of_pre_tokenizer(const nlohmann::json& pre_tokenizer) {
  for (const GgufPreTokenizer& row : kPreTokenizers) {
    if (splits_alike(pre_tokenizer, nlohmann::json(row.to_json()))) return row.name;
  }
  return {};
}

}  // namespace polylora
