// The same adapter in every kind of file is the same adapter.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "io/adapter_file.h"
#include "io/adapter_keys.h"
#include "io/checkpoint.h"
#include "io/file_builders.h"
#include "io/peft_adapter.h"
#include "model/random_model.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int64_t kRank = 3, kWidth = 32, kHeadDim = 8;
const std::string kQ = "model.layers.0.self_attn.q_proj", kV = "model.layers.1.self_attn.v_proj";

ModelConfig small_model() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = kWidth;
  config.intermediate_size = 48;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = kHeadDim;
  config.vocab_size = 64;
  return config;
}

std::vector<float> numbers(int64_t count, float first) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  std::vector<float> out;
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) out.push_back(values[static_cast<size_t>(r * cols + c)]);
  }
  return out;
}

/// llama.cpp's LlamaModel.permute: reshape(heads, 2, E/2, R).swapaxes(1, 2).
std::vector<float> permuted(const std::vector<float>& b, int64_t rank) {
  std::vector<float> out;
  const int64_t heads = static_cast<int64_t>(b.size()) / rank / kHeadDim;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      for (int64_t half = 0; half < 2; ++half) {
        const auto row = b.begin() + (head * kHeadDim + half * (kHeadDim / 2) + i) * rank;
        out.insert(out.end(), row, row + rank);
      }
    }
  }
  return out;
}

std::vector<float> values_of(const StoredTensor& tensor) {
  std::vector<std::byte> room;
  const TensorView view = tensor.read(DType::kF32, room);
  std::vector<float> values(view.data.size() / sizeof(float));
  std::memcpy(values.data(), view.data.data(), view.data.size());
  return values;
}

class AdapterFormats : public testing::Test {
 protected:
  const std::vector<float> qa_ = numbers(kRank * kWidth, 1), qb_ = numbers(kWidth * kRank, -50),
                           va_ = numbers(kRank * kWidth, 7), vb_ = numbers(16 * kRank, 3);

  fs::path write_peft(const std::string& q, const std::string& v, ordered_json config = {}) {
    config.update({{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", 6}});
    folder_.write("adapter_config.json", config.dump());
    TensorSet tensors;
    const auto key = [](std::string pattern, const char* part) {
      return pattern.replace(pattern.find("lora_?"), 6, part);
    };
    tensors.add(key(q, "lora_A"), {kRank, kWidth}, qa_).add(key(q, "lora_B"), {kWidth, kRank}, qb_);
    tensors.add(key(v, "lora_A"), {kRank, kWidth}, va_).add(key(v, "lora_B"), {16, kRank}, vb_);
    tensors.write(folder_.path() / "adapter_model.safetensors");
    return folder_.path();
  }

  TensorSet mlx_tensors() const {
    TensorSet tensors;
    tensors.add(kQ + ".lora_a", {kWidth, kRank}, transposed(qa_, kRank))
        .add(kQ + ".lora_b", {kRank, kWidth}, transposed(qb_, kWidth))
        .add(kV + ".lora_a", {kWidth, kRank}, transposed(va_, kRank))
        .add(kV + ".lora_b", {kRank, 16}, transposed(vb_, 16));
    return tensors;
  }
  /// As mlx_lm.lora saves its arguments.
  static ordered_json mlx_config() {
    return {{"adapter_path", "adapters"},
            {"batch_size", 4},
            {"fine_tune_type", "lora"},
            {"iters", 1000},
            {"model", "a/b"},
            {"num_layers", 16},
            {"lr_schedule", nullptr},
            {"resume", nullptr},
            {"lora_parameters",
             {{"rank", kRank}, {"dropout", 0.0}, {"scale", 2.0}, {"keys", {"self_attn.q_proj"}}}}};
  }
  fs::path write_mlx(const ordered_json& config, const TensorSet& tensors) {
    folder_.write("adapter_config.json", config.dump());
    tensors.write(folder_.path() / "adapters.safetensors");
    return folder_.path();
  }

  static GgufBuilder gguf(const std::string& architecture = "llama") {
    GgufBuilder builder;
    builder.text("general.architecture", architecture)
        .text("general.type", "adapter")
        .text("adapter.type", "lora")
        .u32("general.quantization_version", 2);
    return builder;
  }
  GgufBuilder& add_pairs(GgufBuilder& builder, bool interleaved = true) const {
    return builder.tensor("blk.0.attn_q.weight.lora_a", {kRank, kWidth}, qa_)
        .tensor("blk.0.attn_q.weight.lora_b", {kWidth, kRank}, interleaved ? permuted(qb_, kRank) : qb_)
        .tensor("blk.1.attn_v.weight.lora_a", {kRank, kWidth}, va_)
        .tensor("blk.1.attn_v.weight.lora_b", {16, kRank}, vb_);
  }
  fs::path write_gguf(const GgufBuilder& builder) { return folder_.write("adapter.gguf", builder.bytes()); }

  void expect_same(const fs::path& path, float scale = 2.0f) {
    const AdapterFile file(path, small_model());
    ASSERT_EQ(file.pairs().size(), 2u);
    const AdapterPair &q = file.pairs()[0], &v = file.pairs()[1];
    EXPECT_EQ(std::pair(q.layer, q.module), std::pair(0, 0));
    EXPECT_EQ(std::pair(v.layer, v.module), std::pair(1, 2));
    for (const AdapterPair& pair : file.pairs()) {
      EXPECT_EQ(pair.rank, kRank);
      EXPECT_EQ(pair.scale, scale);
    }
    EXPECT_EQ(values_of(q.a), qa_);
    EXPECT_EQ(values_of(q.b), qb_);
    EXPECT_EQ(values_of(v.a), va_);
    EXPECT_EQ(values_of(v.b), vb_);
    EXPECT_NE(file.load(*model_, *backend_, DType::kF32)->weight(0, Site::kQkv), nullptr);
  }
  void expect_refused(const fs::path& path, ErrorCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] { AdapterFile(path, small_model()); });
  }

  std::unique_ptr<Backend> backend_ = make_backend({.name = "ref"});
  std::unique_ptr<Model> model_ = make_random_model(small_model(), *backend_, WeightFormat::kF32);
  TempFolder folder_;
};

TEST_F(AdapterFormats, KeysInEverySpelling) {
  const std::string q = "layers.0.self_attn.q_proj.", v = "layers.1.self_attn.v_proj.";
  for (const auto& [prefix, ending] : std::vector<std::pair<std::string, std::string>>{
           {"base_model.model.model.", "lora_?.weight"},
           {"base_model.model.model.", "lora_?.default.weight"},  // a plain state_dict
           {"model.", "lora_?.weight"},
           {"_orig_mod.base_model.model.model.", "lora_?.weight"},  // torch.compile
           {"base_model.model._orig_mod.model.", "lora_?.default.weight"},
           {"module.base_model.model.model.", "lora_?.weight"},  // DDP
           {"_fsdp_wrapped_module.base_model.model.model.", "_fsdp_wrapped_module.lora_?.weight"},
           {"base_model.model.model._checkpoint_wrapped_module.", "lora_?.weight"},
           {"base_model.model.model.language_model.", "lora_?.weight"},  // towers of models that see
           {"base_model.model.language_model.model.", "lora_?.weight"}}) {
    SCOPED_TRACE(prefix + " " + ending);
    std::string first = prefix, second = prefix;
    first.append(q).append(ending);
    second.append(v).append(ending);
    expect_same(write_peft(first, second));
  }
}

TEST(AdapterKeys, SayWhatATensorIs) {
  const auto expect = [](const std::string& key, const std::string& path, AdapterRole role) {
    const auto parsed = parse_adapter_key(key);
    ASSERT_TRUE(parsed) << key;
    EXPECT_EQ(parsed->module_path, path) << key;
    EXPECT_EQ(parsed->role, role) << key;
  };
  const std::string p = "base_model.model.";
  for (const char* ending : {"", ".weight", ".default", ".default.weight"})
    expect(p + "m.q.lora_magnitude_vector" + ending, "m.q", AdapterRole::kMagnitude);
  for (const char* ending : {"", ".default"}) {
    expect(p + "model.embed_tokens.lora_embedding_A" + ending, "model.embed_tokens",
           AdapterRole::kEmbeddingA);
    expect(p + "model.embed_tokens.lora_embedding_B" + ending, "model.embed_tokens",
           AdapterRole::kEmbeddingB);
  }
  expect(p + "m.q.lora_B.bias", "m.q", AdapterRole::kLoraBias);
  expect(p + "m.q.lora_B.default.bias", "m.q", AdapterRole::kLoraBias);
  expect(p + "lm_head.weight", "lm_head", AdapterRole::kWeight);
  expect(p + "lm_head.modules_to_save.weight", "lm_head", AdapterRole::kWeight);
  expect(p + "lm_head.modules_to_save.default.weight", "lm_head", AdapterRole::kWeight);
  expect(p + "score.modules_to_save.default.dense.bias", "score.dense", AdapterRole::kBias);
  expect(p + "model.embed_tokens.base_layer.weight", "model.embed_tokens", AdapterRole::kWeight);
  expect(p + "m.q.base_layer.bias", "m.q", AdapterRole::kBias);
  expect(p + "m.default.lora_A.weight", "m.default", AdapterRole::kLoraA);  // a module of that name
  for (const char* foreign : {"", "weight", "m.q.lora_A", "m.q.ia3_l", "m.q.hada_w1_a", "prompt_embeddings"})
    EXPECT_FALSE(parse_adapter_key(foreign)) << foreign;
}

TEST_F(AdapterFormats, TwoSpellingsOfOneModuleAreRefused) {
  const fs::path path = write_peft("model.layers.0.self_attn.q_proj.lora_?.weight",
                                   "model.language_model.layers.0.self_attn.q_proj.lora_?.weight");
  expect_refused(path, ErrorCode::kDataCorrupt, {"twice", "language_model"});
}

TEST_F(AdapterFormats, UnslothsExpressionAndForeignKeysOfTheConfig) {
  // As unsloth_zoo's get_peft_regex writes it, PEFT 0.21's and unsloth's own keys beside it.
  ordered_json config = {
      {"target_modules",
       R"((?:.*?(?:language|text).*?(?:self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense|mixer).*?\.)"
       R"((?:q_proj|v_proj|o_proj))|(?:\bmodel\.layers\.[\d]{1,}(?!.*\.experts\.\d)\..*?(?:self_attn|attention|)"
       R"(attn|mixer|mlp|feed_forward|ffn|dense|mixer).*?\.(?:(?:q_proj|v_proj|o_proj))))"},
      {"auto_mapping", {{"base_model_class", "LlamaForCausalLM"}, {"unsloth_fixed", true}}},
      {"velora_config", nullptr},
      {"kasa_config", nullptr},
      {"peft_version", "0.21.2"},
      {"unsloth_version", "2025.1"}};
  for (const std::string tower : {"", "language_model."}) {
    expect_same(write_peft("base_model.model.model." + tower + "layers.0.self_attn.q_proj.lora_?.weight",
                           "base_model.model.model." + tower + "layers.1.self_attn.v_proj.lora_?.weight",
                           config));
  }
  config["target_modules"] = R"((?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:up_proj))))";
  expect_refused(write_peft(kQ + ".lora_?.weight", kV + ".lora_?.weight", config), ErrorCode::kUnsupported,
                 {"target_modules", "up_proj"});
}

TEST_F(AdapterFormats, LayersToTransform) {
  const auto write = [&](const ordered_json& layers, const ordered_json& pattern,
                         const ordered_json& targets) {
    return write_peft(
        kQ + ".lora_?.weight", kV + ".lora_?.weight",
        {{"target_modules", targets}, {"layers_to_transform", layers}, {"layers_pattern", pattern}});
  };
  const ordered_json targets = {"q_proj", "v_proj"};
  expect_same(write({0, 1}, nullptr, targets));
  expect_same(write({1, 0}, "layers", targets));
  expect_same(write({0, 1}, {"h", "layers"}, targets));
  expect_same(write(nullptr, nullptr, targets));
  expect_refused(write(0, nullptr, targets), ErrorCode::kDataCorrupt, {"v_proj", "layers_to_transform"});
  expect_refused(write({5}, nullptr, targets), ErrorCode::kUnsupported, {"target_modules"});
  expect_refused(write({0, 1}, "h", targets), ErrorCode::kUnsupported, {"target_modules"});
  expect_refused(write({0, 1}, "(", targets), ErrorCode::kUnsupported, {"layers_pattern"});
  expect_refused(write({-1}, nullptr, targets), ErrorCode::kDataCorrupt, {"layers_to_transform"});
  expect_refused(write({0, 1}, nullptr, ".*_proj"), ErrorCode::kDataCorrupt, {"layers_to_transform"});
}

TEST_F(AdapterFormats, RanksUpTo1024) {
  for (const int64_t rank : {1, 129, 1024}) {
    folder_.write("adapter_config.json", fmt::format(R"({{"r": {}, "lora_alpha": {}}})", rank, 2 * rank));
    TensorSet tensors;
    tensors.add_constant(kQ + ".lora_A.weight", rank, kWidth)
        .add_constant(kQ + ".lora_B.weight", kWidth, rank);
    tensors.write(folder_.path() / "adapter_model.safetensors");
    const AdapterFile file(folder_.path(), small_model());
    EXPECT_EQ(file.max_rank(), rank);
    for (const char* name : {"ref", "cpu"}) {
      const auto backend = make_backend({.name = name});
      for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI8})
        EXPECT_EQ(file.load(*model_, *backend, dtype)->weight(0, Site::kQkv)->total_rank(), rank) << name;
    }
  }
}

TEST_F(AdapterFormats, PickledAndNumpyFilesAreRefusedWithTheWayToConvertThem) {
  folder_.write("adapter_config.json", "{}");
  folder_.write("adapters.npz", "PK");
  expect_refused(folder_.path(), ErrorCode::kUnsupported, {"adapters.npz", "mx.save_safetensors"});
  folder_.write("adapter_model.bin", "pickle");
  expect_refused(folder_.path(), ErrorCode::kUnsupported, {"adapter_model.bin", "weights_only=True"});
}

TEST_F(AdapterFormats, Mlx) {
  expect_same(write_mlx(mlx_config(), mlx_tensors()));
  EXPECT_EQ(AdapterFile(folder_.path(), small_model()).base_model_name(), "a/b");
}

TEST_F(AdapterFormats, MlxDoraAndEmbeddingAreWhatPeftCallsThem) {
  ordered_json config = mlx_config();
  config["fine_tune_type"] = "dora";
  TensorSet tensors;
  tensors.add(kQ + ".lora_a", {kWidth, kRank}, transposed(qa_, kRank))
      .add(kQ + ".lora_b", {kRank, kWidth}, transposed(qb_, kWidth))
      .add(kQ + ".m", {kWidth}, numbers(kWidth, 1))
      .add("model.embed_tokens.lora_a", {64, kRank}, numbers(64 * kRank, 0))
      .add("model.embed_tokens.lora_b", {kRank, kWidth}, numbers(kRank * kWidth, 0))
      .add("model.embed_tokens.m", {64}, numbers(64, 1));
  const PeftAdapter adapter(write_mlx(config, tensors), kHeadDim);
  EXPECT_TRUE(adapter.config().use_dora);
  const PeftModule& q = adapter.modules().at(kQ);
  EXPECT_EQ(q.scale, 2.0f);
  EXPECT_EQ(q.magnitude->shape, std::vector<int64_t>{kWidth});
  EXPECT_EQ(std::memcmp(q.b->data.data(), qb_.data(), q.b->data.size()), 0);
  const PeftModule& embedding = adapter.modules().at("model.embed_tokens");
  EXPECT_TRUE(embedding.is_embedding);
  EXPECT_EQ(embedding.a->shape, (std::vector<int64_t>{kRank, 64}));
  EXPECT_EQ(embedding.b->shape, (std::vector<int64_t>{kWidth, kRank}));
}

TEST_F(AdapterFormats, MlxRefusals) {
  const auto refused = [&](const char* key, const ordered_json& value, ErrorCode code,
                           const std::string& part) {
    ordered_json config = mlx_config();
    config[key] = value;
    expect_refused(write_mlx(config, mlx_tensors()), code, {"adapter_config.json", part});
  };
  refused("fine_tune_type", "full", ErrorCode::kUnsupported, "full");
  refused("lora_parameters", nullptr, ErrorCode::kDataCorrupt, "lora_parameters");
  refused("lora_parameters", {{"rank", kRank}}, ErrorCode::kDataCorrupt, "scale");
  refused("lora_parameters", {{"scale", 2.0}, {"rank", "8"}}, ErrorCode::kDataCorrupt, "rank");
  refused("lora_parameters", {{"scale", 2.0}, {"rank", 4}}, ErrorCode::kDataCorrupt, "4");
  TensorSet tensors = mlx_tensors();
  tensors.add_constant("model.layers.0.mlp.gate.weight", 4, 4);
  expect_refused(write_mlx(mlx_config(), tensors), ErrorCode::kUnsupported, {"mlp.gate.weight", "lora_a"});
  tensors = mlx_tensors();
  tensors.add("model.layers.0.mlp.experts.lora_a", {2, 2, 2}, numbers(8, 0));
  expect_refused(write_mlx(mlx_config(), tensors), ErrorCode::kUnsupported, {"experts", "3 dimensions"});
}

TEST_F(AdapterFormats, Gguf) {
  GgufBuilder builder = gguf();
  builder.f32("adapter.lora.alpha", 6);
  expect_same(write_gguf(add_pairs(builder)));
}

TEST_F(AdapterFormats, GgufWithoutAlphaHasScaleOne) {
  GgufBuilder builder = gguf();
  expect_same(write_gguf(add_pairs(builder)), 1.0f);
}

TEST_F(AdapterFormats, GgufOfOtherArchitecturesIsNotPermuted) {
  GgufBuilder builder = gguf("qwen2");
  builder.f32("adapter.lora.alpha", 6);
  expect_same(write_gguf(add_pairs(builder, false)));
}

/// In files of a Phi-3 ffn_up is gate and up in one, in others up alone; a router is named as its model does.
TEST_F(AdapterFormats, GgufModulesAreNamedAsTheirArchitectureDoes) {
  const std::tuple<const char*, const char*, const char*> names[] = {
      {"phi3", "ffn_up", "mlp.gate_up_proj"},
      {"qwen2", "ffn_up", "mlp.up_proj"},
      {"qwen3moe", "ffn_gate_inp", "mlp.gate"},
      {"llama", "ffn_gate_inp", "block_sparse_moe.gate"},
  };
  for (const auto& [architecture, gguf_name, path] : names) {
    GgufBuilder builder = gguf(architecture);
    builder.tensor(fmt::format("blk.1.{}.weight.lora_a", gguf_name), {kRank, kWidth}, qa_)
        .tensor(fmt::format("blk.1.{}.weight.lora_b", gguf_name), {kWidth, kRank}, qb_);
    const PeftAdapter adapter(write_gguf(builder), kHeadDim);
    EXPECT_TRUE(adapter.modules().contains(fmt::format("model.layers.1.{}", path))) << architecture;
  }
}

/// What --outtype q8_0 makes of an adapter: A in blocks of 32, B, whose rows are shorter, in F16.
TEST_F(AdapterFormats, GgufQ8WithHalvesBeside) {
  GgufBuilder builder = gguf();
  builder.f32("adapter.lora.alpha", 6);
  std::string a, b;
  for (int64_t r = 0; r < kRank; ++r) {
    a += raw(f32_to_f16(0.5f));
    for (int64_t k = 0; k < kWidth; ++k) a += static_cast<char>(k - 16);
  }
  for (const float value : permuted(qb_, kRank)) b += raw(f32_to_f16(value));
  builder.tensor("blk.0.attn_q.weight.lora_a", {kRank, kWidth}, 8, a);
  builder.tensor("blk.0.attn_q.weight.lora_b", {kWidth, kRank}, 1, b);
  const AdapterFile file(write_gguf(builder), small_model());
  ASSERT_EQ(file.pairs().size(), 1u);
  EXPECT_EQ(file.pairs()[0].dtype(), DType::kF32);
  EXPECT_EQ(values_of(file.pairs()[0].a)[kWidth + 20], 2.0f);
  EXPECT_EQ(values_of(file.pairs()[0].b), qb_);
  EXPECT_NE(file.load(*model_, *backend_, DType::kF32)->weight(0, Site::kQkv), nullptr);
}

TEST_F(AdapterFormats, GgufEmbeddingNormAndHead) {
  GgufBuilder builder = gguf();
  builder.tensor("token_embd.weight.lora_a", {64, kRank}, transposed(numbers(64 * kRank, 0), kRank))
      .tensor("token_embd.weight.lora_b", {kWidth, kRank}, qb_)
      .tensor("output.weight.lora_a", {kRank, kWidth}, qa_)
      .tensor("output.weight.lora_b", {64, kRank}, numbers(64 * kRank, 0))
      .tensor("blk.1.ffn_norm.weight", {kWidth}, numbers(kWidth, 0));
  const PeftAdapter adapter(write_gguf(builder), kHeadDim);
  const PeftModule& embedding = adapter.modules().at("model.embed_tokens");
  EXPECT_TRUE(embedding.is_embedding);
  EXPECT_EQ(embedding.a->shape, (std::vector<int64_t>{kRank, 64}));
  const std::vector<float> expected = numbers(64 * kRank, 0);
  EXPECT_EQ(std::memcmp(embedding.a->data.data(), expected.data(), embedding.a->data.size()), 0);
  EXPECT_EQ(adapter.modules().at("lm_head").rank, kRank);
  EXPECT_NE(adapter.modules().at("model.layers.1.post_attention_layernorm").new_weight, nullptr);
}

TEST_F(AdapterFormats, GgufRefusals) {
  GgufBuilder model;
  expect_refused(write_gguf(model.text("general.architecture", "llama")), ErrorCode::kUnsupported,
                 {"adapter.gguf", "no adapter", "model"});
  GgufBuilder control;
  control.text("general.type", "adapter").text("adapter.type", "control_vector");
  expect_refused(write_gguf(control), ErrorCode::kUnsupported, {"control_vector"});
  expect_refused(write_gguf(gguf()), ErrorCode::kDataCorrupt, {"no LoRA tensors"});
  const auto refused = [&](const std::string& name, std::vector<int64_t> shape, ErrorCode code,
                           const std::vector<std::string>& parts) {
    GgufBuilder builder = gguf();
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    builder.tensor(name, std::move(shape), numbers(count, 0));
    expect_refused(write_gguf(builder), code, parts);
  };
  refused("blk.0.attn_q.weight.lora_c", {3, 32}, ErrorCode::kUnsupported, {"lora_c"});
  refused("blk.x.attn_q.weight.lora_a", {3, 32}, ErrorCode::kUnsupported, {"blk.x"});
  refused("blk.0.ssm_in.weight.lora_a", {3, 32}, ErrorCode::kUnsupported, {"ssm_in"});
  refused("blk.0.attn_q.weight.lora_b", {30, 3}, ErrorCode::kDataCorrupt, {"attn_q", "head_dim 8"});
  refused("blk.0.attn_v.weight.lora_a", {3}, ErrorCode::kDataCorrupt, {"attn_v", "matrix"});
  refused("blk.0.attn_v.weight.lora_a", {3, 32}, ErrorCode::kDataCorrupt, {"v_proj", "lora_B is missing"});
  refused("blk.9.attn_v.weight.lora_a", {3, 32}, ErrorCode::kUnsupported, {"blk.9", "no module"});
  GgufBuilder negative = gguf();
  negative.f32("adapter.lora.alpha", -1);
  expect_refused(write_gguf(negative), ErrorCode::kDataCorrupt, {"adapter.lora.alpha"});
  expect_refused(folder_.write("adapter.gguf", "rubbish"), ErrorCode::kDataCorrupt, {"GGUF"});
}

TEST_F(AdapterFormats, NanInATransposedTensorIsNamed) {
  TensorSet tensors = mlx_tensors();
  std::vector<float> bad = qb_;
  bad[5] = std::numeric_limits<float>::quiet_NaN();
  tensors.add(kQ + ".lora_b", {kRank, kWidth}, bad);
  const AdapterFile file(write_mlx(mlx_config(), tensors), small_model());
  expect_error(ErrorCode::kDataCorrupt, {kQ + ".lora_B", "NaN"},
               [&] { file.load(*model_, *backend_, DType::kF32); });
}

TEST_F(AdapterFormats, SurviveMutations) {
  GgufBuilder builder = gguf();
  builder.f32("adapter.lora.alpha", 6);
  const std::string good = add_pairs(builder).bytes();
  survive_mutations(good, 1000, [&](const std::string& bytes) {
    AdapterFile(folder_.write("adapter.gguf", bytes), small_model()).load(*model_, *backend_, DType::kF32);
  });
  write_mlx(mlx_config(), mlx_tensors());
  const std::string config = mlx_config().dump(), tensors = read_all(folder_.path() / "adapters.safetensors");
  survive_mutations(config, 1000, [](const std::string& text) { parse_mlx_config(text, "x"); });
  survive_mutations(tensors, 500, [&](const std::string& bytes) {
    folder_.write("adapters.safetensors", bytes);
    AdapterFile(folder_.path(), small_model()).load(*model_, *backend_, DType::kF32);
  });
}

}  // namespace
}  // namespace polylora
