#include "io/gguf_metadata.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "io/gguf_architectures.h"
#include "io/gguf_tokenizer.h"
#include "io/json_file.h"

namespace polylora {
namespace {

using Json = nlohmann::json;  // looks members up fast, unlike ordered_json

// tokenizer.ggml.token_type
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

/// llama.h's enum llama_ftype.
uint32_t file_type(DType dtype) {
  return dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 32;
}

uint32_t number(int value) {
  return static_cast<uint32_t>(value);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  if (object.is_object() && object.contains(key)) return object.at(key);
  fail(ErrorCode::kDataCorrupt, "{}: '{}' is missing", where, key);
}

/// The tokens by id, with what each is.
struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;

  /// -1: no such token.
  int64_t find(const std::string& token) const {
    const auto found = std::find(tokens.begin(), tokens.end(), token);
    return token.empty() || found == tokens.end() ? -1 : found - tokens.begin();
  }
};

class VocabularyReader {
 public:
  VocabularyReader(const Json& tokenizer, int size, const std::string& where) : where_(where) {
    const auto count = static_cast<size_t>(size);
    vocabulary_.tokens.resize(count);
    vocabulary_.types.assign(count, kUnused);
    for (const auto& [token, id] : member(member(tokenizer, "model", where), "vocab", where).items())
      put(token, id, kNormal);
    const auto added = tokenizer.find("added_tokens");
    for (const Json& token : added == tokenizer.end() ? Json::array() : *added) {
      const bool special = token.value("special", Json(false)) == true;
      put(member(token, "content", where).get<std::string>(), member(token, "id", where),
          special ? kControl : kUserDefined);
    }
    for (size_t id = 0; id < count; ++id) {  // the model has more rows than the tokenizer has tokens
      if (vocabulary_.types[id] == kUnused) vocabulary_.tokens[id] = fmt::format("[PAD{}]", id);
    }
  }

  Vocabulary take() { return std::move(vocabulary_); }

 private:
  void put(const std::string& token, const Json& id, int32_t type) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocabulary_.tokens.size()) {
      fail(ErrorCode::kDataCorrupt, "{}: token '{}' has id {}, outside the model's vocabulary of {}", where_,
           token, id.dump(), vocabulary_.tokens.size());
    }
    vocabulary_.tokens[id.get<size_t>()] = token;
    vocabulary_.types[id.get<size_t>()] = type;
  }

  const std::string& where_;
  Vocabulary vocabulary_;
};

/// "a b", or a pair in newer files.
std::vector<std::string> read_merges(const Json& model, const std::string& where) {
  std::vector<std::string> merges;
  for (const Json& merge : member(model, "merges", where)) {
    if (merge.is_string()) {
      merges.push_back(merge);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      fail(ErrorCode::kDataCorrupt, "{}: a merge is neither a string nor a pair", where);
    }
  }
  return merges;
}

/// Whether the post-processor puts a special token in front of a text.
bool adds_leading_token(const Json& processor) {
  if (!processor.is_object()) return false;
  if (processor.contains("processors")) {
    return std::any_of(processor["processors"].begin(), processor["processors"].end(), adds_leading_token);
  }
  const auto single = processor.find("single");
  return single != processor.end() && single->is_array() && !single->empty() && single->front().is_object() &&
         single->front().contains("SpecialToken");
}

/// tokenizer_config.json's name for a token: a string, or an object with "content"; empty when absent.
std::string named_token(const Json& config, const char* key) {
  if (!config.is_object() || !config.contains(key)) return {};
  const Json& token = config.at(key);
  const Json content = token.is_object() ? token.value("content", Json()) : token;
  return content.is_string() ? content.get<std::string>() : std::string();
}

void add_special_ids(const Vocabulary& vocabulary, const ModelConfig& config, const TextAssets& text,
                     const std::string& where, GgufMetadata& metadata) {
  const Json names =
      text.tokenizer_config_json.empty() ? Json::object() : parse_json(text.tokenizer_config_json, where);
  const int64_t eos = vocabulary.find(text.eos_token);
  const std::pair<const char*, int64_t> ids[] = {
      {"tokenizer.ggml.bos_token_id", vocabulary.find(text.bos_token)},
      {"tokenizer.ggml.eos_token_id", eos},
      {"tokenizer.ggml.unknown_token_id", vocabulary.find(named_token(names, "unk_token"))},
      {"tokenizer.ggml.padding_token_id", vocabulary.find(named_token(names, "pad_token"))},
  };
  for (const auto& [key, id] : ids) {
    if (id >= 0) metadata.emplace_back(key, static_cast<uint32_t>(id));
  }
  for (const int id : config.eos_token_ids) {  // the end of a turn, where that is another token
    if (id == eos || eos < 0) continue;
    metadata.emplace_back("tokenizer.ggml.eot_token_id", number(id));
    break;
  }
}

bool is_byte_level_bpe(const Json& tokenizer) {
  const Json model = tokenizer.value("model", Json::object());
  return model.is_object() && model.value("type", Json()) == "BPE" &&
         model.value("byte_fallback", Json(false)) != true;
}

void add_vocabulary(const Json& tokenizer, const ModelConfig& config, const TextAssets& text,
                    const std::string& where, GgufMetadata& metadata) {
  Vocabulary vocabulary = VocabularyReader(tokenizer, config.vocab_size, where).take();
  metadata.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  metadata.emplace_back("tokenizer.ggml.pre", gguf_pre_tokenizer_name(tokenizer, where));
  add_special_ids(vocabulary, config, text, where, metadata);
  metadata.emplace_back("tokenizer.ggml.tokens", std::move(vocabulary.tokens));
  metadata.emplace_back("tokenizer.ggml.token_type", std::move(vocabulary.types));
  metadata.emplace_back("tokenizer.ggml.merges", read_merges(tokenizer.at("model"), where));
  metadata.emplace_back("tokenizer.ggml.add_bos_token",
                        adds_leading_token(tokenizer.value("post_processor", Json())));
}

void add_expert_keys(const ModelConfig& config, const std::string& arch, GgufMetadata& metadata) {
  if (!config.has_experts()) return;
  metadata.emplace_back(arch + ".expert_count", number(config.experts.count));
  metadata.emplace_back(arch + ".expert_used_count", number(config.experts.per_token));
  metadata.emplace_back(arch + ".expert_feed_forward_length", number(config.intermediate_size));
}

void add_attention_keys(const ModelConfig& config, const std::string& arch, GgufMetadata& metadata) {
  if (!config.windows.empty()) {
    const int window = *std::max_element(config.windows.begin(), config.windows.end());
    metadata.emplace_back(arch + ".attention.sliding_window", number(window));
  }
  if (config.attention_softcap > 0.0f)
    metadata.emplace_back(arch + ".attn_logit_softcapping", config.attention_softcap);
  if (config.final_logit_softcap > 0.0f)
    metadata.emplace_back(arch + ".final_logit_softcapping", config.final_logit_softcap);
  if (config.local_rope_theta > 0.0)
    metadata.emplace_back(arch + ".rope.freq_base_swa", static_cast<float>(config.local_rope_theta));
}

}  // namespace

GgufMetadata gguf_model_metadata(const ModelConfig& config, const std::string& name, DType dtype) {
  const std::string arch(gguf_architecture_of(config.model_type).name);
  GgufMetadata metadata = {
      {"general.architecture", arch},
      {"general.type", std::string("model")},
      {"general.name", name},
      {"general.file_type", file_type(dtype)},
      {"general.quantization_version", uint32_t{2}},
      {arch + ".vocab_size", number(config.vocab_size)},
      {arch + ".context_length", number(config.max_position_embeddings)},
      {arch + ".embedding_length", number(config.hidden_size)},
      {arch + ".block_count", number(config.num_layers)},
      {arch + ".feed_forward_length", number(config.intermediate_size)},
      {arch + ".attention.head_count", number(config.num_heads)},
      {arch + ".attention.head_count_kv", number(config.num_kv_heads)},
      {arch + ".attention.key_length", number(config.head_dim)},
      {arch + ".attention.value_length", number(config.head_dim)},
      {arch + ".attention.layer_norm_rms_epsilon", config.rms_norm_eps},
      {arch + ".rope.dimension_count", number(config.head_dim)},
      {arch + ".rope.freq_base", static_cast<float>(config.rope_theta)},
  };
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    metadata.emplace_back(arch + ".rope.scaling.type", std::string("linear"));
    metadata.emplace_back(arch + ".rope.scaling.factor", static_cast<float>(scaling.factor));
  } else if (scaling.kind == RopeScaling::Kind::kLlama3) {  // beside the tensor rope_freqs.weight
    metadata.emplace_back(arch + ".rope.scaling.original_context_length",
                          number(scaling.original_max_position_embeddings));
  } else if (scaling.kind == RopeScaling::Kind::kLongRope) {  // beside the tensors rope_factors_*
    metadata.emplace_back(arch + ".rope.scaling.original_context_length",
                          number(scaling.original_max_position_embeddings));
    metadata.emplace_back(arch + ".rope.scaling.attn_factor", static_cast<float>(scaling.attention_factor));
  }
  add_attention_keys(config, arch, metadata);
  add_expert_keys(config, arch, metadata);
  return metadata;
}

void add_gguf_tokenizer(const ModelConfig& config, const TextAssets& text, const std::string& where,
                        GgufMetadata& metadata) {
  if (!text.chat_template.empty()) metadata.emplace_back("tokenizer.chat_template", text.chat_template);
  if (text.tokenizer_json.empty()) {
    metadata.emplace_back("tokenizer.ggml.model", std::string("none"));
    if (config.bos_token_id >= 0)
      metadata.emplace_back("tokenizer.ggml.bos_token_id", number(config.bos_token_id));
    if (!config.eos_token_ids.empty())
      metadata.emplace_back("tokenizer.ggml.eos_token_id", number(config.eos_token_ids.front()));
    return;
  }
  const Json tokenizer = parse_json(text.tokenizer_json, where);
  if (!is_byte_level_bpe(tokenizer)) {
    fail(ErrorCode::kUnsupported,
         "{}: only byte-level BPE tokenizers are written to GGUF; export safetensors and convert the folder "
         "with llama.cpp",
         where);
  }
  add_vocabulary(tokenizer, config, text, where, metadata);
}

std::vector<GgufRopeTensor> gguf_rope_tensors(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    return {{"rope_factors_short.weight", scaling.short_factor},
            {"rope_factors_long.weight", scaling.long_factor}};
  }
  if (scaling.kind != RopeScaling::Kind::kLlama3) return {};
  ModelConfig unscaled = config;
  unscaled.rope_scaling = {};
  std::vector<float> divisors = rope_frequencies(unscaled);
  const std::vector<float> scaled = rope_frequencies(config);
  for (size_t i = 0; i < divisors.size(); ++i) divisors[i] /= scaled[i];
  return {{"rope_freqs.weight", std::move(divisors)}};
}

std::string gguf_lacks(const ModelConfig& config) {
  const float scalar = config.query_pre_attn_scalar;
  const bool is_27b = config.num_layers == (config.model_type == "gemma2" ? 46 : 62);
  const int assumed = is_27b ? config.hidden_size / config.num_heads : config.head_dim;
  if (scalar > 0.0f && scalar != static_cast<float>(assumed))
    return fmt::format("query_pre_attn_scalar {} beside heads of {}", scalar, config.head_dim);
  if (config.has_experts() && !config.experts.normalises) return "norm_topk_prob false";
  const int widest =
      config.windows.empty() ? 0 : *std::max_element(config.windows.begin(), config.windows.end());
  for (int layer = 0; widest > 0 && layer < config.num_layers; ++layer) {
    const bool full = (config.model_type == "gemma2" && layer % 2 == 1) ||
                      (config.model_type == "gemma3_text" && layer % 6 == 5);
    const bool has_key = !config.model_type.starts_with("qwen");
    if (!has_key || (config.window(layer) == 0) != full) return "the pattern of layers with a sliding window";
  }
  return {};
}

}  // namespace polylora
