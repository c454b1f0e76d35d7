#include "io/gguf_checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "io/gguf.h"
#include "io/gguf_tokenizer.h"

namespace polylora {
namespace {

using nlohmann::json;

/// HF tensor suffix -> GGUF name, within layer N ("blk.N.").
constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

std::string gguf_name(const TensorSpec& spec) {
  using Role = TensorSpec::Role;
  switch (spec.role) {
    case Role::kEmbedding:
      return "token_embd.weight";
    case Role::kFinalNorm:
      return "output_norm.weight";
    case Role::kLmHead:
      return "output.weight";
    default:
      break;
  }
  const std::string prefix = fmt::format("model.layers.{}.", spec.layer);
  const std::string_view rest = std::string_view(spec.name).substr(prefix.size());
  for (const auto& [hf, gguf] : kLayerNames) {
    if (rest.starts_with(hf) && rest[hf.size()] == '.')
      return fmt::format("blk.{}.{}{}", spec.layer, gguf, rest.substr(hf.size()));
  }
  fail(ErrorCode::kInternal, "no GGUF name for {}", spec.name);
}

/// config.json of a Llama GGUF, from its llama.* keys.
json make_hf_config(const GgufFile& gguf) {
  const std::string file = gguf.file().path().string();
  const std::string& architecture = gguf.get<std::string>("general.architecture");
  const auto known = known_model_types();
  if (std::find(known.begin(), known.end(), architecture) == known.end()) {
    fail(ErrorCode::kUnsupported, "{}: architecture '{}' is not supported; known: {}", file, architecture,
         fmt::join(known, ", "));
  }
  const auto key = [&](const char* name) { return architecture + "." + name; };
  const auto integer = [&](const char* name) { return gguf.get<int64_t>(key(name)); };
  const int64_t heads = integer("attention.head_count");
  const int64_t* kv_heads = gguf.find<int64_t>(key("attention.head_count_kv"));
  const int64_t* key_length = gguf.find<int64_t>(key("attention.key_length"));
  const int64_t* rope_dimensions = gguf.find<int64_t>(key("rope.dimension_count"));
  const double* rope_base = gguf.find<double>(key("rope.freq_base"));
  const auto embedding = gguf.tensors().find("token_embd.weight");
  if (embedding == gguf.tensors().end())
    fail(ErrorCode::kDataCorrupt, "{}: tensor token_embd.weight is missing", file);
  if (heads < 1) fail(ErrorCode::kDataCorrupt, "{}: {} must be positive", file, key("attention.head_count"));

  const int64_t head_dim = key_length != nullptr ? *key_length : integer("embedding_length") / heads;
  if (rope_dimensions != nullptr && *rope_dimensions != head_dim) {
    fail(ErrorCode::kUnsupported, "{}: rotary embedding over part of a head is not supported", file);
  }
  json config = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", architecture},
      {"hidden_size", integer("embedding_length")},
      {"intermediate_size", integer("feed_forward_length")},
      {"num_hidden_layers", integer("block_count")},
      {"num_attention_heads", heads},
      {"num_key_value_heads", kv_heads != nullptr ? *kv_heads : heads},
      {"head_dim", head_dim},
      {"vocab_size", embedding->second.shape.front()},
      {"max_position_embeddings", integer("context_length")},
      {"rms_norm_eps", gguf.get<double>(key("attention.layer_norm_rms_epsilon"))},
      {"rope_theta", rope_base != nullptr ? *rope_base : 10000.0},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", !gguf.tensors().contains("output.weight")},
      {"attention_bias", gguf.tensors().contains("blk.0.attn_q.bias")},
      {"mlp_bias", gguf.tensors().contains("blk.0.ffn_up.bias")},
      {"torch_dtype", "bfloat16"},
  };
  if (const auto* bos = gguf.find<int64_t>("tokenizer.ggml.bos_token_id")) config["bos_token_id"] = *bos;
  if (const auto* eos = gguf.find<int64_t>("tokenizer.ggml.eos_token_id")) config["eos_token_id"] = *eos;
  return config;
}

/// llama.rope.scaling.* names linear scaling; llama3 scaling comes as a tensor of per-frequency divisors
/// instead.
void add_rope_scaling(const GgufFile& gguf, json& config) {
  const std::string architecture = config["model_type"];
  const auto* type = gguf.find<std::string>(architecture + ".rope.scaling.type");
  if (type != nullptr && *type != "none") {
    config["rope_scaling"] = {{"rope_type", *type}};
    if (const auto* factor = gguf.find<double>(architecture + ".rope.scaling.factor"))
      config["rope_scaling"]["factor"] = *factor;
  }
  if (!gguf.tensors().contains("rope_freqs.weight")) return;
  const TensorView& divisors = gguf.tensors().at("rope_freqs.weight");
  if (divisors.dtype != DType::kF32)
    fail(ErrorCode::kUnsupported, "{}: rope_freqs.weight must be F32", gguf.file().path().string());
  float largest = 1.0f;  // the divisor of the slowest frequencies is llama3's factor
  for (int64_t i = 0; i < divisors.shape.back(); ++i) {
    float value = 0;
    dequantize_row(DType::kF32, divisors.data.data() + i * 4, 1, &value);
    largest = std::max(largest, value);
  }
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", largest},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path) : gguf_(path) {
    hf_config_ = make_hf_config(gguf_);
    add_rope_scaling(gguf_, hf_config_);
    config_ = parse_model_config(hf_config_, path.string());
    text_.generation_config = json::object();
    read_gguf_tokenizer(gguf_, text_);
  }

  const std::filesystem::path& path() const override { return gguf_.file().path(); }
  const ModelConfig& config() const override { return config_; }
  const json& hf_config() const override { return hf_config_; }
  const TextAssets& text() const override { return text_; }

  std::string format_name() const override {
    const auto first_linear = gguf_.tensors().find("blk.0.ffn_up.weight");
    const bool known = first_linear != gguf_.tensors().end();
    return fmt::format("GGUF {}", known ? dtype_name(first_linear->second.dtype) : "");
  }

  void append_rows(const TensorSpec& spec, WeightSource& source) const override {
    const TensorView& tensor = find(gguf_name(spec), spec);
    const int64_t rows = spec.cols == 0 ? 1 : spec.rows;
    source.cols = spec.cols == 0 ? spec.rows : spec.cols;
    const size_t row_bytes = dtype_row_bytes(tensor.dtype, source.cols);
    for (int64_t r = 0; r < rows; ++r) {
      source.rows.push_back(
          {tensor.data.data() + static_cast<size_t>(stored_row(spec, r)) * row_bytes, tensor.dtype});
    }
  }

 private:
  const TensorView& find(const std::string& name, const TensorSpec& spec) const {
    const std::string file = path().string();
    const auto found = gguf_.tensors().find(name);
    if (found == gguf_.tensors().end()) fail(ErrorCode::kDataCorrupt, "{}: tensor {} is missing", file, name);
    const std::vector<int64_t> expected =
        spec.cols == 0 ? std::vector<int64_t>{spec.rows} : std::vector<int64_t>{spec.rows, spec.cols};
    if (found->second.shape != expected) {
      fail(ErrorCode::kDataCorrupt, "{}: tensor {} has shape [{}], the metadata wants [{}]", file, name,
           fmt::join(found->second.shape, ", "), fmt::join(expected, ", "));
    }
    if (spec.role == TensorSpec::Role::kLinearBias && is_permuted(spec)) {
      fail(ErrorCode::kUnsupported, "{}: biases on q_proj and k_proj of a Llama GGUF are not supported",
           file);
    }
    return found->second;
  }

  bool is_permuted(const TensorSpec& spec) const { return spec.module == 0 || spec.module == 1; }

  /// Llama GGUFs hold each q and k head with its two rotary halves interleaved (row 2i, 2i+1 = HF row i, i +
  /// E/2).
  int64_t stored_row(const TensorSpec& spec, int64_t hf_row) const {
    if (spec.role != TensorSpec::Role::kLinearWeight || !is_permuted(spec)) return hf_row;
    const int64_t head_dim = config_.head_dim, half = head_dim / 2;
    const int64_t head = hf_row / head_dim, within = hf_row % head_dim;
    return head * head_dim + (within % half) * 2 + within / half;
  }

  GgufFile gguf_;
  json hf_config_;
  ModelConfig config_;
  TextAssets text_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file) {
  return std::make_unique<GgufCheckpoint>(file);
}

}  // namespace polylora
