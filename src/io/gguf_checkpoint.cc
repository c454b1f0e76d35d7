#include "io/gguf_checkpoint.h"

#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"
#include "io/gguf.h"
#include "io/gguf_architectures.h"
#include "io/gguf_config.h"
#include "io/gguf_tokenizer.h"

namespace polylora {
namespace {

using nlohmann::json;

/// A module within layer N ("blk.N."); `only`: where several share a name, the architecture that means this
/// one.
struct ModuleName {
  std::string_view hf, gguf, only = {};
};
constexpr ModuleName kModuleNames[] = {
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},      {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"}, {"mlp.gate_up_proj", "ffn_up", "phi3"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},       {"block_sparse_moe.gate", "ffn_gate_inp", "llama"},
    {"mlp.gate", "ffn_gate_inp"},
};

/// What every expert has, by the end of its path.
constexpr ModuleName kExpertNames[] = {
    {".w1", "ffn_gate"},        {".w2", "ffn_down"},        {".w3", "ffn_up"},
    {".gate_proj", "ffn_gate"}, {".down_proj", "ffn_down"}, {".up_proj", "ffn_up"},
};

std::string_view norm_name(Norm norm) {
  switch (norm) {
    case Norm::kInput:
      return "attn_norm";
    case Norm::kQuery:
      return "attn_q_norm";
    case Norm::kKey:
      return "attn_k_norm";
    case Norm::kAttentionOutput:
      return "post_attention_norm";
    case Norm::kMlp:
      return "ffn_norm";
    case Norm::kMlpOutput:
      break;
  }
  return "post_ffw_norm";
}

/// Rows of q_proj or k_proj in a file that interleaves them.
bool is_interleaved(const TensorSpec& spec, const ModelConfig& config) {
  const auto is_of = [&](std::string_view module) { return spec.name.find(module) != std::string::npos; };
  return gguf_architecture_of(config.model_type).interleaves_heads &&
         (is_of(".self_attn.q_proj.") || is_of(".self_attn.k_proj."));
}

std::string_view expert_name(std::string_view path) {
  for (const ModuleName& name : kExpertNames) {
    if (path.ends_with(name.hf)) return name.gguf;
  }
  fail(ErrorCode::kInternal, "no GGUF name for {}", path);
}

/// The path of a *.weight.
std::string_view module_of(const TensorSpec& spec) {
  return std::string_view(spec.name).substr(0, spec.name.rfind('.'));
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path) : gguf_(path) {
    hf_config_ = make_gguf_hf_config(gguf_);
    config_ = parse_model_config(hf_config_, path.string());
    config_.norm_offset = 0.0f;  // llama.cpp's converter adds it
    text_.generation_config = json::object();
    read_gguf_tokenizer(gguf_, config_.vocab_size, text_);
  }

  const std::filesystem::path& path() const override { return gguf_.file().path(); }
  const ModelConfig& config() const override { return config_; }
  const json& hf_config() const override { return hf_config_; }
  const TextAssets& text() const override { return text_; }

  std::string format_name() const override {  // told by what most of the file is
    for (const char* name : {"blk.0.ffn_up.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up.0.weight"}) {
      const auto found = gguf_.tensors().find(name);
      if (found != gguf_.tensors().end()) return fmt::format("GGUF {}", dtype_name(found->second.dtype));
    }
    return "GGUF";
  }

  void append_rows(const TensorSpec& spec, WeightSource& source) const override {
    const TensorView& tensor = find(spec);
    const int64_t rows = spec.cols == 0 ? 1 : spec.rows;
    source.cols = spec.cols == 0 ? spec.rows : spec.cols;
    const size_t row_bytes = dtype_row_bytes(tensor.dtype, source.cols);
    const bool interleaved = is_rotary_interleaved(spec, config_);
    const int64_t first = tensor.shape.size() == 3 ? spec.expert * rows : 0;
    for (int64_t r = 0; r < rows; ++r) {
      const auto stored = static_cast<size_t>(first + (interleaved ? interleaved_row(r) : r));
      source.rows.push_back({tensor.data.data() + stored * row_bytes, tensor.dtype});
    }
  }

  void drop_pages() const override { gguf_.file().drop_pages(); }

 private:
  const TensorView& find(const TensorSpec& spec) const {
    std::string name = gguf_tensor_name(spec);
    const std::string file = path().string();
    auto found = gguf_.tensors().find(name);
    const bool stacked = spec.expert >= 0 && found != gguf_.tensors().end();
    if (spec.expert >= 0 && !stacked) {  // files of before 2024-04 have a tensor for every expert
      name = fmt::format("blk.{}.{}.{}.weight", spec.layer, expert_name(module_of(spec)), spec.expert);
      found = gguf_.tensors().find(name);
    }
    if (found == gguf_.tensors().end()) fail(ErrorCode::kDataCorrupt, "{}: tensor {} is missing", file, name);
    std::vector<int64_t> expected = {spec.rows};
    if (spec.cols != 0) expected.push_back(spec.cols);
    if (stacked) expected.insert(expected.begin(), config_.experts.count);
    if (found->second.shape != expected) {
      fail(ErrorCode::kDataCorrupt, "{}: tensor {} has shape [{}], the metadata wants [{}]", file, name,
           fmt::join(found->second.shape, ", "), fmt::join(expected, ", "));
    }
    if (spec.role == TensorSpec::Role::kLinearBias && is_interleaved(spec, config_)) {
      fail(ErrorCode::kUnsupported, "{}: biases on q_proj and k_proj of a Llama GGUF are not supported",
           file);
    }
    return found->second;
  }

  /// llama.cpp's converter interleaves the two rotary halves of each q and k head (LlamaModel.permute):
  /// stored rows 2i and 2i+1 of a head are HF's rows i and i + E/2.
  int64_t interleaved_row(int64_t hf_row) const {
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
    case Role::kNorm:
      return fmt::format("blk.{}.{}.weight", spec.layer, norm_name(static_cast<Norm>(spec.module)));
    case Role::kLinearWeight:
    case Role::kLinearBias:
      break;
  }
  if (spec.expert >= 0) return fmt::format("blk.{}.{}_exps.weight", spec.layer, expert_name(module_of(spec)));
  const std::string prefix = fmt::format("model.layers.{}.", spec.layer);
  const std::string_view rest = std::string_view(spec.name).substr(prefix.size());
  for (const ModuleName& name : kModuleNames) {
    if (rest.starts_with(name.hf) && rest[name.hf.size()] == '.')
      return fmt::format("blk.{}.{}{}", spec.layer, name.gguf, rest.substr(name.hf.size()));
  }
  fail(ErrorCode::kInternal, "no GGUF name for {}", spec.name);
}

std::string hf_module_path(std::string_view gguf_module, std::string_view architecture) {
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
  constexpr ModuleName kLlamaNorms[] = {{"input_layernorm", "attn_norm"},
                                        {"post_attention_layernorm", "ffn_norm"}};
  const std::string_view name = gguf_module.substr(dot + 1);
  for (const std::span<const ModuleName> names : {std::span<const ModuleName>(kModuleNames), {kLlamaNorms}}) {
    for (const ModuleName& row : names) {
      if (row.gguf == name && (row.only.empty() || row.only == architecture))
        return fmt::format("model.layers.{}.{}", layer, row.hf);
    }
  }
  return {};
}

bool is_rotary_interleaved(const TensorSpec& spec, const ModelConfig& config) {
  return spec.role == TensorSpec::Role::kLinearWeight && is_interleaved(spec, config);
}

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file) {
  return std::make_unique<GgufCheckpoint>(file);
}

}  // namespace polylora
