// An HF checkpoint of tests/data rewritten as llama.cpp's converter would must read back as the same weights.
#include <fmt/ranges.h>

#include <cstring>

#include "io/checkpoint.h"
#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
namespace fs = std::filesystem;

const fs::path kModels = fs::path(POLYLORA_TEST_DATA) / "models";
const fs::path kShared = fs::path(POLYLORA_TEST_DATA) / "../../../shared/golden/models";  // may be absent

std::vector<float> floats_of(const Checkpoint& checkpoint, const TensorSpec& spec) {
  WeightSource source;
  checkpoint.append_rows(spec, source);
  std::vector<float> values(source.rows.size() * static_cast<size_t>(source.cols));
  for (size_t r = 0; r < source.rows.size(); ++r) {
    source.rows[r].read(source.cols, values.data() + r * static_cast<size_t>(source.cols));
  }
  return values;
}

/// convert_hf_to_gguf.py: w.reshape(heads, 2, E / 2, cols).swapaxes(1, 2).reshape(w.shape).
std::vector<float> permute(const std::vector<float>& w, size_t heads, size_t rows, size_t cols) {
  const size_t half = rows / heads / 2;
  std::vector<float> out;
  for (size_t head = 0; head < heads; ++head) {
    for (size_t i = 0; i < half; ++i) {
      for (size_t part = 0; part < 2; ++part) {
        const auto row = w.begin() + static_cast<std::ptrdiff_t>(((head * 2 + part) * half + i) * cols);
        out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(cols));
      }
    }
  }
  return out;
}

std::string gguf_name(std::string name, bool output_norms) {
  const std::pair<std::string, std::string> parts[] = {
      {"model.layers.", "blk."},
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", output_norms ? "post_attention_norm" : "ffn_norm"},
      {"pre_feedforward_layernorm", "ffn_norm"},
      {"post_feedforward_layernorm", "post_ffw_norm"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.qkv_proj", "attn_qkv"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.gate_up_proj", "ffn_up"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate.", "ffn_gate_inp."},
      {"block_sparse_moe.gate.", "ffn_gate_inp."}};
  for (const auto& [hf, gguf] : parts) {
    if (const size_t at = name.find(hf); at != std::string::npos) name.replace(at, hf.size(), gguf);
  }
  return name;
}

/// "ffn_gate" of "….experts.3.w1.weight".
std::string gguf_expert_name(const std::string& name) {
  const auto is = [&](const char* mixtral, const char* qwen) {
    return name.ends_with(std::string(mixtral) + ".weight") || name.ends_with(std::string(qwen) + ".weight");
  };
  return is("w1", "gate_proj") ? "ffn_gate" : is("w2", "down_proj") ? "ffn_down" : "ffn_up";
}

std::string gguf_architecture(const std::string& model_type) {
  const std::map<std::string, std::string> others = {
      {"mistral", "llama"}, {"mixtral", "llama"}, {"gemma3_text", "gemma3"}, {"qwen3_moe", "qwen3moe"}};
  const auto found = others.find(model_type);
  return found == others.end() ? model_type : found->second;
}

void add_metadata(const ModelConfig& config, GgufBuilder& builder) {
  const std::string arch = gguf_architecture(config.model_type);
  const auto u32 = [&](const char* key, int value) { builder.u32(arch + key, static_cast<uint32_t>(value)); };
  builder.text("general.architecture", arch);
  u32(".block_count", config.num_layers);
  u32(".context_length", config.max_position_embeddings);
  u32(".embedding_length", config.hidden_size);
  u32(".feed_forward_length", config.intermediate_size);
  u32(".attention.head_count", config.num_heads);
  u32(".attention.head_count_kv", config.num_kv_heads);
  u32(".attention.key_length", config.head_dim);
  builder.f32(arch + ".attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  builder.f32(arch + ".rope.freq_base", static_cast<float>(config.rope_theta));
  if (!config.windows.empty()) u32(".attention.sliding_window", config.windows.front());
  if (config.attention_softcap > 0) {
    builder.f32(arch + ".attn_logit_softcapping", config.attention_softcap);
    builder.f32(arch + ".final_logit_softcapping", config.final_logit_softcap);
  }
  if (config.has_experts()) {
    u32(".expert_count", config.experts.count);
    u32(".expert_used_count", config.experts.per_token);
    u32(".expert_feed_forward_length", config.intermediate_size);
  }
  builder.u32("tokenizer.ggml.bos_token_id", 1);
  builder.u32("tokenizer.ggml.eos_token_id", 2);
}

/// How a file holds the experts' matrices.
enum class Experts { kStacked, kOneByOne };

GgufBuilder convert(const Checkpoint& hf, Experts experts = Experts::kStacked) {
  const ModelConfig& config = hf.config();
  const bool interleaves = gguf_architecture(config.model_type) == "llama";
  GgufBuilder builder;
  add_metadata(config, builder);
  std::map<std::string, std::vector<float>> stacks;
  for_each_tensor(config, [&](const TensorSpec& spec) {
    std::vector<float> values = floats_of(hf, spec);
    if (is_norm(spec)) {
      for (float& value : values) value += config.norm_offset;
    }
    if (interleaves && spec.role == TensorSpec::Role::kLinearWeight && spec.module < 2) {
      const int heads = spec.module == 0 ? config.num_heads : config.num_kv_heads;
      values = permute(values, static_cast<size_t>(heads), static_cast<size_t>(spec.rows),
                       static_cast<size_t>(spec.cols));
    }
    auto shape =
        spec.cols == 0 ? std::vector<int64_t>{spec.rows} : std::vector<int64_t>{spec.rows, spec.cols};
    if (spec.expert >= 0) {
      const std::string stem = fmt::format("blk.{}.{}", spec.layer, gguf_expert_name(spec.name));
      if (experts == Experts::kOneByOne) {
        builder.tensor(fmt::format("{}.{}.weight", stem, spec.expert), std::move(shape), values);
        return;
      }
      std::vector<float>& all = stacks[stem];
      all.insert(all.end(), values.begin(), values.end());
      if (spec.expert + 1 < config.experts.count) return;
      builder.tensor(stem + "_exps.weight", {config.experts.count, spec.rows, spec.cols}, all);
      return;
    }
    builder.tensor(gguf_name(spec.name, config.output_norms), std::move(shape), values);
  });
  return builder;
}

class GgufCheckpoint : public testing::Test {
 protected:
  std::unique_ptr<Checkpoint> open(const GgufBuilder& builder) {
    return Checkpoint::open(folder_.write("m.gguf", builder.bytes()));
  }
  void expect_refused(const GgufBuilder& builder, const std::string& part,
                      ErrorCode code = ErrorCode::kUnsupported) {
    expect_error(code, {"m.gguf", part}, [&] { open(builder); });
  }

  TempFolder folder_;
};

TEST_F(GgufCheckpoint, GivesTheTensorsOfTheHfModelItWasMadeFrom) {
  for (const char* name : {"llama_plain_tied", "llama_bf16_tied"}) {
    const auto hf = Checkpoint::open(kModels / name);
    const auto gguf = open(convert(*hf));
    EXPECT_EQ(gguf->config().tie_word_embeddings, true);
    EXPECT_EQ(gguf->config().head_dim, hf->config().head_dim);
    EXPECT_EQ(gguf->config().rms_norm_eps, hf->config().rms_norm_eps);
    EXPECT_EQ(gguf->config().eos_token_ids, hf->config().eos_token_ids);
    for_each_tensor(hf->config(), [&](const TensorSpec& spec) {
      EXPECT_EQ(floats_of(*gguf, spec), floats_of(*hf, spec)) << spec.name;
    });
  }
}

/// What the forward reads of a config.
std::string computed_facts(const ModelConfig& c) {
  return fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}", c.model_type,
                     fmt::join(c.windows, ","), c.attention_softcap, c.final_logit_softcap, c.embedding_scale,
                     c.qk_norm, c.output_norms, c.fused_projections, c.qkv_bias, c.rope_theta,
                     c.local_rope_theta, static_cast<int>(c.activation), c.experts.count, c.experts.per_token,
                     c.experts.normalises, c.intermediate_size);
}

TEST_F(GgufCheckpoint, GivesTheTensorsOfEveryArchitecture) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  for (const char* name : {"qwen2_sharded", "qwen3", "mistral_swa", "gemma2", "gemma3_text", "phi3",
                           "mixtral_moe", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    const auto hf = Checkpoint::open(kShared / name);
    GgufBuilder builder = convert(*hf);
    if (hf->config().local_rope_theta > 0) {
      builder.u32("gemma3.attention.sliding_window_pattern", 3);
      builder.text("gemma3.rope.scaling.type", "linear").f32("gemma3.rope.scaling.factor", 8.0f);
    }
    const auto gguf = open(builder);
    EXPECT_EQ(computed_facts(gguf->config()), computed_facts(hf->config()));
    for_each_tensor(hf->config(), [&](const TensorSpec& spec) {
      std::vector<float> expected = floats_of(*hf, spec);
      for (float& value : expected) value += is_norm(spec) ? hf->config().norm_offset : 0.0f;
      EXPECT_EQ(floats_of(*gguf, spec), expected) << spec.name;
    });
    EXPECT_EQ(gguf->config().norm_offset, 0.0f);
  }
}

TEST_F(GgufCheckpoint, ReadsExpertsThatAreATensorEach) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  const auto hf = Checkpoint::open(kShared / "mixtral_moe");
  const auto gguf = open(convert(*hf, Experts::kOneByOne));
  EXPECT_EQ(gguf->config().model_type, "mixtral");
  for_each_tensor(hf->config(), [&](const TensorSpec& spec) {
    EXPECT_EQ(floats_of(*gguf, spec), floats_of(*hf, spec)) << spec.name;
  });
}

TEST_F(GgufCheckpoint, ReadsLongrope) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  const auto hf = Checkpoint::open(kShared / "phi3_longrope");
  const RopeScaling& scaling = hf->config().rope_scaling;
  const auto gguf = open(convert(*hf)
                             .u32("phi3.rope.scaling.original_context_length", 32)
                             .tensor("rope_factors_short.weight", {8}, scaling.short_factor)
                             .tensor("rope_factors_long.weight", {8}, scaling.long_factor));
  for (const int positions : {32, 33})
    EXPECT_EQ(make_rope_table(gguf->config(), positions), make_rope_table(hf->config(), positions));
}

TEST_F(GgufCheckpoint, AnOutputMatrixMeansUntiedEmbeddings) {
  const auto hf = Checkpoint::open(kModels / "llama_llama3rope_untied");
  EXPECT_FALSE(open(convert(*hf))->config().tie_word_embeddings);
}

/// What llama.cpp's converter stores for llama3 scaling: the divisors of the unscaled frequencies.
std::vector<float> rope_divisors(ModelConfig config, RopeScaling scaling) {
  config.rope_scaling = {};
  const auto plain = rope_frequencies(config);
  config.rope_scaling = scaling;
  const auto scaled = rope_frequencies(config);
  std::vector<float> divisors;
  for (size_t i = 0; i < plain.size(); ++i) divisors.push_back(plain[i] / scaled[i]);
  return divisors;
}

TEST_F(GgufCheckpoint, RecoversLlama3ScalingFromItsDivisors) {
  const auto hf = Checkpoint::open(kModels / "llama_llama3rope_untied");
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = 32.0;
  const auto divisors = rope_divisors(hf->config(), scaling);
  const auto size = static_cast<int64_t>(divisors.size());
  const auto gguf = open(convert(*hf).tensor("rope_freqs.weight", {size}, divisors));
  EXPECT_EQ(gguf->config().rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(gguf->config().rope_scaling.factor, 32.0);
  EXPECT_EQ(gguf->config().rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(gguf->hf_config()["rope_scaling"]["rope_type"], "llama3");
}

TEST_F(GgufCheckpoint, RefusesDivisorsThatAreNotLlama3s) {
  const auto hf = Checkpoint::open(kModels / "llama_llama3rope_untied");
  const auto refuse = [&](std::vector<float> divisors) {
    const auto size = static_cast<int64_t>(divisors.size());
    expect_refused(convert(*hf).tensor("rope_freqs.weight", {size}, divisors), "rope_freqs.weight");
  };
  refuse(rope_divisors(hf->config(), hf->config().rope_scaling));  // stretched from 32 positions, not 8192
  refuse(std::vector<float>(8, 3.0f));
  refuse(std::vector<float>(3, 1.0f));
}

TEST_F(GgufCheckpoint, ReadsLinearScaling) {
  const auto hf = Checkpoint::open(kModels / "llama_plain_tied");
  const auto gguf =
      open(convert(*hf).text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0f));
  EXPECT_EQ(gguf->config().rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(gguf->config().rope_scaling.factor, 2.0);
  EXPECT_EQ(open(convert(*hf).f32("llama.rope.scale_linear", 4.0f))->config().rope_scaling.factor, 4.0);
  expect_refused(convert(*hf).text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 2.0f),
                 "yarn");
}

TEST_F(GgufCheckpoint, GenerationStopsAtTheEndOfATurnToo) {
  const auto hf = Checkpoint::open(kModels / "llama_plain_tied");
  const auto gguf = open(convert(*hf).u32("tokenizer.ggml.eot_token_id", 9));
  EXPECT_THAT(gguf->config().eos_token_ids, testing::ElementsAre(2, 9));
}

TEST_F(GgufCheckpoint, RefusesWhatItCannotServe) {
  const auto hf = Checkpoint::open(kModels / "llama_plain_tied");
  expect_refused(convert(*hf).text("general.architecture", "rwkv6"), "rwkv6");
  expect_refused(convert(*hf).u32("split.count", 3), "3 parts");
  expect_refused(convert(*hf).u32("llama.expert_count", 8), "expert_used_count is missing",
                 ErrorCode::kDataCorrupt);
  expect_refused(convert(*hf).u32("llama.rope.dimension_count", 8), "part of a head");
  expect_refused(convert(*hf).u32("llama.attention.head_count", 0), "head_count", ErrorCode::kDataCorrupt);
  expect_refused(GgufBuilder().text("general.architecture", "llama"), "is missing", ErrorCode::kDataCorrupt);
}

TEST_F(GgufCheckpoint, NamesATensorThatIsMissingOrMisshapen) {
  const auto hf = Checkpoint::open(kModels / "llama_plain_tied");
  const auto gguf = open(convert(*hf).u32("llama.feed_forward_length", 64).u32("llama.block_count", 4));
  for_each_tensor(gguf->config(), [&](const TensorSpec& spec) {
    if (spec.name == "model.layers.3.input_layernorm.weight")
      expect_error(ErrorCode::kDataCorrupt, {"blk.3.attn_norm.weight is missing"},
                   [&] { floats_of(*gguf, spec); });
    if (spec.name == "model.layers.0.mlp.up_proj.weight")
      expect_error(ErrorCode::kDataCorrupt, {"blk.0.ffn_up.weight", "[176, 64]", "[64, 64]"},
                   [&] { floats_of(*gguf, spec); });
  });
}

}  // namespace
}  // namespace polylora
