#include "io/gguf_checkpoint.h"

#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"
#include "io/gguf.h"
#include "io/gguf_config.h"
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

/// q_proj and k_proj.
bool is_rotary(const TensorSpec& spec) {
  return spec.module == 0 || spec.module == 1;
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path) : gguf_(path) {
    hf_config_ = make_gguf_hf_config(gguf_);
    config_ = parse_model_config(hf_config_, path.string());
    text_.generation_config = json::object();
    read_gguf_tokenizer(gguf_, config_.vocab_size, text_);
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
    const TensorView& tensor = find(gguf_tensor_name(spec), spec);
    const int64_t rows = spec.cols == 0 ? 1 : spec.rows;
    source.cols = spec.cols == 0 ? spec.rows : spec.cols;
    const size_t row_bytes = dtype_row_bytes(tensor.dtype, source.cols);
    for (int64_t r = 0; r < rows; ++r) {
      source.rows.push_back(
          {tensor.data.data() + static_cast<size_t>(stored_row(spec, r)) * row_bytes, tensor.dtype});
    }
  }

  void drop_pages() const override { gguf_.file().drop_pages(); }

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
    if (spec.role == TensorSpec::Role::kLinearBias && is_rotary(spec)) {
      fail(ErrorCode::kUnsupported, "{}: biases on q_proj and k_proj of a Llama GGUF are not supported",
           file);
    }
    return found->second;
  }

  /// llama.cpp's converter interleaves the two rotary halves of each q and k head (LlamaModel.permute):
  /// stored rows 2i and 2i+1 of a head are HF's rows i and i + E/2.
  int64_t stored_row(const TensorSpec& spec, int64_t hf_row) const {
    if (!is_rotary_interleaved(spec)) return hf_row;
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

std::string gguf_tensor_name(const TensorSpec& spec) {
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

std::string hf_module_path(std::string_view gguf_module) {
  if (gguf_module == "token_embd") return "model.embed_tokens";
  if (gguf_module == "output_norm") return "model.norm";
  if (gguf_module == "output") return "lm_head";
  constexpr std::string_view kBlock = "blk.";
  if (!gguf_module.starts_with(kBlock)) return {};
  gguf_module.remove_prefix(kBlock.size());
  const size_t dot = gguf_module.find('.');
  const std::string_view layer = gguf_module.substr(0, dot);
  if (dot == std::string_view::npos || layer.find_first_not_of("0123456789") != std::string_view::npos)
    return {};
  for (const auto& [hf, gguf] : kLayerNames) {
    if (gguf_module.substr(dot + 1) == gguf) return fmt::format("model.layers.{}.{}", layer, hf);
  }
  return {};
}

bool is_rotary_interleaved(const TensorSpec& spec) {
  return spec.role == TensorSpec::Role::kLinearWeight && is_rotary(spec);
}

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file) {
  return std::make_unique<GgufCheckpoint>(file);
}

}  // namespace polylora
