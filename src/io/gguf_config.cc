#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/gguf_architectures.h"
#include "model/config.h"

namespace polylora {
namespace {

using nlohmann::json;

/// The keys under "<architecture>.".
class ArchitectureKeys {
 public:
  explicit ArchitectureKeys(const GgufFile& gguf)
      : gguf_(gguf), architecture_(gguf.get<std::string>("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }
  std::string name(const char* key) const { return architecture_ + "." + key; }

  template <typename T>
  T get(const char* key) const {
    return gguf_.get<T>(name(key));
  }
  template <typename T>
  T get_or(const char* key, T fallback) const {
    const T* value = gguf_.find<T>(name(key));
    return value == nullptr ? fallback : *value;
  }
  int64_t positive(const char* key) const {
    const auto value = get<int64_t>(key);
    if (value > 0) return value;
    fail(ErrorCode::kDataCorrupt, "{}: {} must be positive", gguf_.file().path().string(), name(key));
  }

 private:
  const GgufFile& gguf_;
  std::string architecture_;
};

void refuse_split(const GgufFile& gguf) {
  const std::string file = gguf.file().path().string();
  const int64_t* parts = gguf.find<int64_t>("split.count");
  if (parts != nullptr && *parts > 1) {
    fail(ErrorCode::kUnsupported,
         "{} is one of {} parts; join them first (llama.cpp's gguf-split --merge does)", file, *parts);
  }
}

/// The keys are those of either family's config.json.
void add_experts(const ArchitectureKeys& keys, json& config) {
  const auto count = keys.positive("expert_count");
  config["num_local_experts"] = config["num_experts"] = count;
  config["num_experts_per_tok"] = keys.positive("expert_used_count");
  config["norm_topk_prob"] = true;  // as llama.cpp's graphs do
  config["moe_intermediate_size"] =
      keys.get_or<int64_t>("expert_feed_forward_length", config["intermediate_size"]);
}

/// token_embd.weight is [vocabulary, width]: older files do not state the vocabulary's size elsewhere.
int64_t vocabulary_size(const GgufFile& gguf) {
  const auto found = gguf.tensors().find("token_embd.weight");
  if (found != gguf.tensors().end()) return found->second.shape.front();
  fail(ErrorCode::kDataCorrupt, "{}: tensor token_embd.weight is missing", gguf.file().path().string());
}

int64_t head_size(const GgufFile& gguf, const ArchitectureKeys& keys) {
  const int64_t shared_out = keys.positive("embedding_length") / keys.positive("attention.head_count");
  const auto head_dim = keys.get_or<int64_t>("attention.key_length", shared_out);
  if (keys.get_or<int64_t>("rope.dimension_count", head_dim) != head_dim) {
    fail(ErrorCode::kUnsupported, "{}: rotary embedding over part of a head is not supported",
         gguf.file().path().string());
  }
  return head_dim;
}

/// Generation stops on the end of a text and on the end of a turn.
json eos_ids(const GgufFile& gguf) {
  json ids = json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const int64_t* id = gguf.find<int64_t>(key);
    if (id != nullptr && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  return ids.size() == 1 ? ids.front() : ids;
}

std::vector<float> read_floats(const GgufFile& gguf, const std::string& name) {
  const std::string where = gguf.file().path().string() + ": " + name;
  const auto found = gguf.tensors().find(name);
  if (found == gguf.tensors().end()) fail(ErrorCode::kDataCorrupt, "{} is missing", where);
  const TensorView& tensor = found->second;
  if (tensor.dtype != DType::kF32 || tensor.shape.size() != 1)
    fail(ErrorCode::kUnsupported, "{} must be one row of F32", where);
  std::vector<float> values(static_cast<size_t>(tensor.shape.front()));
  dequantize_row(tensor.dtype, tensor.data.data(), tensor.shape.front(), values.data());
  return values;
}

/// GGUF holds llama3 scaling as the divisors that it gives, HF as the parameters that it has. The parameters
/// are guessed (llama.cpp's converter only ever sees these) and the guess is checked against the divisors.
json llama3_scaling(const GgufFile& gguf, const ArchitectureKeys& keys, const json& unscaled) {
  const std::string where = gguf.file().path().string() + ": rope_freqs.weight";
  const std::vector<float> divisors = read_floats(gguf, "rope_freqs.weight");
  const json scaling = {
      {"rope_type", "llama3"},
      {"factor",
       *std::max_element(divisors.begin(), divisors.end())},  // the slowest frequencies have it whole
      {"low_freq_factor", 1.0},
      {"high_freq_factor", 4.0},
      {"original_max_position_embeddings",
       keys.get_or<int64_t>("rope.scaling.original_context_length", 8192)}};
  json scaled = unscaled;
  scaled["rope_scaling"] = scaling;
  const std::vector<float> before = rope_frequencies(parse_model_config(unscaled, where));
  const std::vector<float> after = rope_frequencies(parse_model_config(scaled, where));
  bool same = divisors.size() == before.size();
  for (size_t i = 0; same && i < divisors.size(); ++i)
    same = std::fabs(after[i] * divisors[i] - before[i]) <= 1e-4f * before[i];
  if (!same)
    fail(ErrorCode::kUnsupported, "{} is not Llama 3's rope scaling; nothing else is supported", where);
  return scaling;
}

/// Phi-3's. Its attention factor is computed by the converter; older files lack it.
json longrope_scaling(const GgufFile& gguf, const ArchitectureKeys& keys) {
  json scaling = {
      {"rope_type", "longrope"},
      {"short_factor", read_floats(gguf, "rope_factors_short.weight")},
      {"long_factor", read_floats(gguf, "rope_factors_long.weight")},
      {"original_max_position_embeddings", keys.get<int64_t>("rope.scaling.original_context_length")}};
  if (const double factor = keys.get_or<double>("rope.scaling.attn_factor", 0.0); factor > 0.0)
    scaling["attention_factor"] = factor;
  return scaling;
}

void add_rope_scaling(const GgufFile& gguf, const ArchitectureKeys& keys, json& config) {
  const auto type = keys.get_or<std::string>("rope.scaling.type", "none");
  const auto old_factor = keys.get_or<double>("rope.scale_linear", 1.0);  // before rope.scaling.* existed
  if (gguf.tensors().contains("rope_freqs.weight")) {
    config["rope_scaling"] = llama3_scaling(gguf, keys, config);
  } else if (gguf.tensors().contains("rope_factors_long.weight")) {
    config["rope_scaling"] = longrope_scaling(gguf, keys);
  } else if (type != "none") {
    config["rope_scaling"] = {{"rope_type", type}, {"factor", keys.get<double>("rope.scaling.factor")}};
  } else if (old_factor != 1.0) {
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", old_factor}};
  }
}

/// llama.cpp has no key for it: its graphs divide by the head size, but for the two 27B models, which are
/// told by their depth.
int64_t query_pre_attn_scalar(const ArchitectureKeys& keys, int64_t head_dim) {
  const auto layers = keys.get<int64_t>("block_count");
  const bool is_27b =
      (keys.architecture() == "gemma2" && layers == 46) || (keys.architecture() == "gemma3" && layers == 62);
  return is_27b ? keys.positive("embedding_length") / keys.positive("attention.head_count") : head_dim;
}

void add_gemma(const ArchitectureKeys& keys, json& config) {
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["query_pre_attn_scalar"] = query_pre_attn_scalar(keys, config["head_dim"]);
  if (keys.architecture() == "gemma2") {
    config["attn_logit_softcapping"] = keys.get_or<double>("attn_logit_softcapping", 50.0);
    config["final_logit_softcapping"] = keys.get_or<double>("final_logit_softcapping", 30.0);
    return;
  }
  config["sliding_window_pattern"] = keys.get_or<int64_t>("attention.sliding_window_pattern", 6);
  config["rope_local_base_freq"] = keys.get_or<double>("rope.freq_base_swa", 10000.0);
}

}  // namespace

json make_gguf_hf_config(const GgufFile& gguf) {
  const ArchitectureKeys keys(gguf);
  const GgufArchitecture* architecture =
      &gguf_architecture_named(keys.architecture(), gguf.file().path().string());
  refuse_split(gguf);
  const auto window = keys.get_or<int64_t>("attention.sliding_window", 0);
  const bool has_experts = keys.get_or<int64_t>("expert_count", 0) > 0;
  if (architecture->model_type == "llama" && (has_experts || window > 0))
    architecture = &gguf_architecture_of(has_experts ? "mixtral" : "mistral");
  const int64_t heads = keys.positive("attention.head_count");
  json config = {
      {"architectures", {architecture->hf_class}},
      {"model_type", architecture->model_type},
      {"hidden_size", keys.positive("embedding_length")},
      {"intermediate_size", keys.get<int64_t>("feed_forward_length")},
      {"num_hidden_layers", keys.get<int64_t>("block_count")},
      {"num_attention_heads", heads},
      {"num_key_value_heads", keys.get_or<int64_t>("attention.head_count_kv", heads)},
      {"head_dim", head_size(gguf, keys)},
      {"vocab_size", vocabulary_size(gguf)},
      {"max_position_embeddings", keys.get<int64_t>("context_length")},
      {"rms_norm_eps", keys.get<double>("attention.layer_norm_rms_epsilon")},
      {"rope_theta", keys.get_or<double>("rope.freq_base", 10000.0)},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", !gguf.tensors().contains("output.weight")},
      {"attention_bias", gguf.tensors().contains("blk.0.attn_q.bias")},
      {"mlp_bias", gguf.tensors().contains("blk.0.ffn_up.bias")},
      {"torch_dtype", "bfloat16"},
      {"eos_token_id", eos_ids(gguf)},
  };
  if (const auto* bos = gguf.find<int64_t>("tokenizer.ggml.bos_token_id")) config["bos_token_id"] = *bos;
  if (window > 0) config["sliding_window"] = window;
  if (has_experts) add_experts(keys, config);
  if (architecture->name.starts_with("gemma")) {
    config.erase("hidden_act");
    add_gemma(keys, config);
  }
  add_rope_scaling(gguf, keys, config);
  return config;
}

}  // namespace polylora
