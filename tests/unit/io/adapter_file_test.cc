#include "io/adapter_file.h"

#include <cmath>
#include <limits>

#include "io/adapter_config.h"
#include "io/checkpoint.h"
#include "io/file_builders.h"
#include "model/random_model.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

const fs::path kData = POLYLORA_TEST_DATA;
const std::string kPrefix = "base_model.model.model.layers.0.self_attn.";

ModelConfig small_model() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 64;
  return config;
}

/// A good adapter on layer 0's q_proj (rank 4) that each test damages in one place.
class AdapterFileTest : public testing::Test {
 protected:
  AdapterFileTest() {
    config_ = {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"q_proj"}}};
    tensors_.add_constant(kPrefix + "q_proj.lora_A.weight", 4, 32);
    tensors_.add_constant(kPrefix + "q_proj.lora_B.weight", 32, 4);
  }

  AdapterFile open() {
    folder_.write("adapter_config.json", config_.dump());
    tensors_.write(folder_.path() / "adapter_model.safetensors");
    return AdapterFile(folder_.path(), small_model());
  }
  static std::unique_ptr<Adapter> load(const AdapterFile& file, Backend& backend) {
    static const std::unique_ptr<Model> model =
        make_random_model(small_model(), *make_backend({.name = "ref"}), WeightFormat::kF32);
    return file.load(*model, backend, DType::kF32);
  }
  void expect_refused(ErrorCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] { open(); });
  }
  void expect_config_refused(const std::string& key, const ordered_json& value, ErrorCode code,
                             const std::string& part) {
    const ordered_json good = config_;
    config_[key] = value;
    expect_refused(code, {"adapter_config.json", part});
    config_ = good;
  }

  ordered_json config_;
  TensorSet tensors_;
  TempFolder folder_;
};

TEST_F(AdapterFileTest, ResolvesItsPairs) {
  const AdapterFile file = open();
  ASSERT_EQ(file.pairs().size(), 1u);
  const AdapterPair& pair = file.pairs().front();
  EXPECT_EQ(pair.layer, 0);
  EXPECT_EQ(pair.module, 0);
  EXPECT_EQ(pair.rank, 4);
  EXPECT_EQ(pair.scale, 2.0f);
  EXPECT_EQ(file.max_rank(), 4);
  const size_t exact = (4 * 32 + 32 * 4) * sizeof(float);
  EXPECT_GE(file.packed_bytes(DType::kF32), exact);
  EXPECT_LE(file.packed_bytes(DType::kBf16), file.packed_bytes(DType::kF32));
}

TEST_F(AdapterFileTest, ReadsOtherSpellingsOfTheKeys) {
  tensors_.add_constant("model.layers.1.mlp.down_proj.lora_A.default.weight", 4, 48);
  tensors_.add_constant("model.layers.1.mlp.down_proj.lora_B.default.weight", 32, 4);
  const AdapterFile file = open();
  ASSERT_EQ(file.pairs().size(), 2u);
  EXPECT_EQ(file.pairs()[1].layer, 1);
  EXPECT_EQ(file.pairs()[1].module, 6);
}

TEST_F(AdapterFileTest, RsLoraScalesByTheRootOfTheRank) {
  config_["use_rslora"] = true;
  EXPECT_EQ(open().pairs().front().scale, 4.0f);
}

TEST_F(AdapterFileTest, LoadsThePairsOfAFusedLinearTogether) {
  tensors_.add_constant(kPrefix + "v_proj.lora_A.weight", 4, 32);
  tensors_.add_constant(kPrefix + "v_proj.lora_B.weight", 16, 4);
  const auto backend = make_backend({.name = "ref"});
  const auto adapter = load(open(), *backend);
  ASSERT_NE(adapter->weight(0, Site::kQkv), nullptr);
  EXPECT_EQ(adapter->weight(0, Site::kQkv)->total_rank(), 8);
  EXPECT_EQ(adapter->weight(0, Site::kO), nullptr);
  EXPECT_EQ(adapter->weight(1, Site::kQkv), nullptr);
  EXPECT_GT(adapter->bytes(), 0u);
}

TEST_F(AdapterFileTest, TheHashFollowsConfigAndTensors) {
  const uint64_t first = open().content_hash();
  EXPECT_EQ(open().content_hash(), first);
  config_["lora_alpha"] = 9;
  EXPECT_NE(open().content_hash(), first);
  config_["lora_alpha"] = 8;
  tensors_.add_constant(kPrefix + "q_proj.lora_B.weight", 32, 4, 0.25f);
  EXPECT_NE(open().content_hash(), first);
}

TEST_F(AdapterFileTest, SaysWhatAFolderLacks) {
  expect_error(ErrorCode::kNotFound, {"No adapter found for /no/such"},
               [] { AdapterFile("/no/such", small_model()); });
  expect_error(ErrorCode::kNotFound, {"No adapter found for"},
               [] { AdapterFile(std::string(5000, 'x'), small_model()); });
  folder_.write("adapter_config.json", "{}");
  const auto open_folder = [&] { AdapterFile(folder_.path(), small_model()); };
  expect_error(ErrorCode::kNotFound, {"No adapter found for"}, open_folder);
  folder_.write("adapter_model.bin", "pickle");
  expect_error(ErrorCode::kUnsupported, {"adapter_model.bin", "safetensors"}, open_folder);
}

TEST_F(AdapterFileTest, RefusesFeaturesByName) {
  const auto refused = [&](const char* key, const ordered_json& value, const std::string& part) {
    expect_config_refused(key, value, ErrorCode::kUnsupported, part);
  };
  refused("peft_type", "IA3", "IA3");
  refused("fan_in_fan_out", true, "fan_in_fan_out");
  refused("use_qalora", true, "use_qalora");
  refused("layer_replication", {{0, 2}}, "layer_replication");
  refused("alora_invocation_tokens", {1, 2}, "alora_invocation_tokens");
  refused("init_lora_weights", "pissa_niter_4", "pissa");
}

TEST_F(AdapterFileTest, AcceptsFeaturesThatAreOff) {
  config_.update({{"use_dora", false},
                  {"modules_to_save", nullptr},
                  {"bias", "none"},
                  {"rank_pattern", nullptr},
                  {"alpha_pattern", ordered_json::object()},
                  {"init_lora_weights", "gaussian"}});
  EXPECT_EQ(open().pairs().size(), 1u);
}

TEST_F(AdapterFileTest, RefusesSenselessConfigValuesByKey) {
  for (const ordered_json& value :
       {ordered_json(0), ordered_json(-4), ordered_json(4.5), ordered_json("4"), ordered_json(100000)})
    expect_config_refused("r", value, ErrorCode::kDataCorrupt, "'r'");
  for (const ordered_json& value : {ordered_json(0), ordered_json("8"), ordered_json(1e300)})
    expect_config_refused("lora_alpha", value, ErrorCode::kDataCorrupt, "'lora_alpha'");
  expect_config_refused("rank_pattern", {1, 2}, ErrorCode::kDataCorrupt, "rank_pattern");
  expect_config_refused("rank_pattern", {{"q_proj", 0}}, ErrorCode::kDataCorrupt, "rank_pattern");
  expect_config_refused("alpha_pattern", {{"(", 1}}, ErrorCode::kUnsupported, "'('");
  expect_config_refused("target_modules", {1}, ErrorCode::kDataCorrupt, "target_modules");
}

TEST_F(AdapterFileTest, RefusesATensorThatMatchesNoModule) {
  const std::pair<std::string, std::string> cases[] = {
      {"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", "layers.2"},
      {kPrefix + "c_attn.lora_A.weight", "c_attn"},
      {kPrefix + "k_proj.lora_magnitude_vector", "k_proj"},
      {kPrefix + "k_proj.lora_B.bias", "k_proj"},
      {kPrefix + "q_proj.lora_embedding_A", "q_proj"},
      {kPrefix + "q_proj.modules_to_save.weight", "q_proj"},
      {"base_model.model.model.layers.0.input_layernorm.weight", "input_layernorm"},
      {kPrefix + "q_proj.lora_A.other.weight", "lora_A.other"}};
  for (const auto& [key, part] : cases) {
    const TensorSet good = tensors_;
    tensors_.add_constant(key, 4, 32);
    expect_refused(ErrorCode::kUnsupported, {"adapter_model.safetensors", part});
    tensors_ = good;
  }
}

TEST_F(AdapterFileTest, TellsWhatItCanBeUsedFor) {
  EXPECT_TRUE(open().pairs_only());
  EXPECT_EQ(open().vocab_size(), 64);
  tensors_.add_constant("base_model.model.lm_head.lora_A.weight", 4, 32);
  tensors_.add_constant("base_model.model.lm_head.lora_B.weight", 64, 4);
  EXPECT_FALSE(open().pairs_only());
  EXPECT_TRUE(open().stackable());
  tensors_.add_vector(kPrefix + "q_proj.lora_B.bias", 32);
  EXPECT_FALSE(open().stackable());
}

TEST_F(AdapterFileTest, AVocabularyOfItsOwnMustBeThatOfBothEmbeddings) {
  tensors_.add_constant("base_model.model.lm_head.weight", 70, 32);
  expect_refused(ErrorCode::kDataCorrupt, {"embed_tokens has 64 tokens and lm_head 70"});
  tensors_.add_constant("base_model.model.model.embed_tokens.weight", 70, 32);
  EXPECT_EQ(open().vocab_size(), 70);
  EXPECT_FALSE(open().stackable());
  tensors_.add_constant("base_model.model.model.embed_tokens.weight", 70, 31);
  expect_refused(ErrorCode::kDataCorrupt, {"embed_tokens", "[70, 31]", "[70, 32]"});
}

TEST_F(AdapterFileTest, DoraNeedsAMagnitudeForEveryPair) {
  config_["use_dora"] = true;
  expect_refused(ErrorCode::kDataCorrupt, {"q_proj", "lora_magnitude_vector is missing"});
  tensors_.add_vector(kPrefix + "q_proj.lora_magnitude_vector", 31);
  expect_refused(ErrorCode::kDataCorrupt, {"q_proj.lora_magnitude_vector", "[31]", "[32]"});
  tensors_.add_vector(kPrefix + "q_proj.lora_magnitude_vector", 32);
  const auto backend = make_backend({.name = "ref"});
  const auto adapter = load(open(), *backend);
  EXPECT_EQ(adapter->gain(0, Site::kQkv).size(), 64u);
  EXPECT_EQ(adapter->gain(0, Site::kQkv)[40], 1.0f) << "k_proj has none";
  EXPECT_TRUE(adapter->gain(1, Site::kQkv).empty());
}

TEST_F(AdapterFileTest, DropsAMatrixThatIsTheBases) {
  const auto backend = make_backend({.name = "ref"});
  const auto model = make_random_model(small_model(), *backend, WeightFormat::kF32);
  std::vector<float> same;
  for (int64_t v = 0; v < 64; ++v) {
    same.resize(same.size() + 32);
    model->embedding->read_row(v, same.data() + 32 * v);
  }
  tensors_.add("base_model.model.model.embed_tokens.base_layer.weight", {64, 32}, same);
  EXPECT_EQ(open().load(*model, *backend, DType::kF32)->embedding().full, nullptr);
  same[77] += 1.0f;
  tensors_.add("base_model.model.model.embed_tokens.base_layer.weight", {64, 32}, same);
  EXPECT_NE(open().load(*model, *backend, DType::kF32)->embedding().full, nullptr);
}

TEST_F(AdapterFileTest, RefusesTheSameTensorUnderTwoSpellings) {
  tensors_.add_constant(kPrefix + "q_proj.lora_A.default.weight", 4, 32);
  expect_refused(ErrorCode::kDataCorrupt, {"q_proj", "twice"});
}

TEST_F(AdapterFileTest, RefusesPairsThatDoNotFit) {
  tensors_.add_constant(kPrefix + "k_proj.lora_A.weight", 4, 32);
  expect_refused(ErrorCode::kDataCorrupt, {"k_proj", "lora_B is missing"});
  tensors_.add_constant(kPrefix + "k_proj.lora_B.weight", 32, 4);
  expect_refused(ErrorCode::kDataCorrupt, {"k_proj.lora_B", "[32, 4]", "[16, 4]"});
  tensors_.add_constant(kPrefix + "k_proj.lora_B.weight", 16, 4);
  EXPECT_EQ(open().pairs().size(), 2u);
  tensors_.add_constant(kPrefix + "k_proj.lora_A.weight", 4, 64);
  expect_refused(ErrorCode::kDataCorrupt, {"k_proj.lora_A", "[4, 64]", "[4, 32]"});
}

TEST_F(AdapterFileTest, TheRankOfTheTensorMustBeThatOfTheConfig) {
  config_["r"] = 8;
  expect_refused(ErrorCode::kDataCorrupt, {"q_proj.lora_A has rank 4", "says 8"});
  config_["rank_pattern"] = {{"q_proj", 4}};
  EXPECT_EQ(open().pairs().front().scale, 2.0f);
}

TEST_F(AdapterFileTest, TargetsThatNameNoModuleAreRefused) {
  config_["target_modules"] = {"c_attn", "c_proj"};
  expect_refused(ErrorCode::kUnsupported, {"c_attn", "q_proj"});
  config_["target_modules"] = ".*\\.attention\\.wq";
  expect_refused(ErrorCode::kUnsupported, {"wq"});
  for (const ordered_json& good : {ordered_json("all-linear"), ordered_json(nullptr), ordered_json(".*_proj"),
                                   ordered_json("(?<=x)python-only"), ordered_json({"self_attn.q_proj"})}) {
    config_["target_modules"] = good;
    EXPECT_EQ(open().pairs().size(), 1u) << good;
  }
}

TEST_F(AdapterFileTest, RefusesAnAdapterWithoutTensors) {
  tensors_ = {};
  expect_refused(ErrorCode::kDataCorrupt, {"no LoRA tensors"});
}

TEST_F(AdapterFileTest, NamesATensorThatHoldsNanOrInfinity) {
  const auto backend = make_backend({.name = "ref"});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(32 * 4, 1.0f);
    values[77] = bad;
    tensors_.add(kPrefix + "q_proj.lora_B.weight", {32, 4}, values);
    const AdapterFile file = open();
    expect_error(ErrorCode::kDataCorrupt, {"model.layers.0.self_attn.q_proj.lora_B", "NaN or infinity"},
                 [&] { load(file, *backend); });
  }
}

TEST_F(AdapterFileTest, PatternsAreTriedInFileOrderWithDotsAsWildcards) {
  const auto config = parse_adapter_config(
      R"({"r": 2, "lora_alpha": 2, "rank_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 5, "k.proj": 7,
          "^model.layers.1.mlp.up_proj$": 9, "attn.v_pro": 11}, "alpha_pattern": {"q_proj": 30}})",
      "x");
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 3);
  EXPECT_EQ(config.rank_of("model.layers.1.self_attn.q_proj"), 5);
  EXPECT_EQ(config.rank_of("model.layers.1.self_attn.k_proj"), 7);
  EXPECT_EQ(config.rank_of("model.layers.1.mlp.up_proj"), 9);
  EXPECT_EQ(config.rank_of("model.layers.11.mlp.up_proj"), 2);
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.v_proj"), 2);  // a pattern must match to the end
  EXPECT_EQ(config.scale_of("model.layers.1.self_attn.q_proj", 5), 6.0f);
}

TEST_F(AdapterFileTest, AnExplosivePatternCostsNothing) {
  const auto config = parse_adapter_config(R"({"rank_pattern": {"(.*)*x": 3, "((a|.)*)*!": 3}})", "x");
  EXPECT_EQ(config.rank_of("model.layers.0.self_attn.q_proj"), 8);
}

TEST_F(AdapterFileTest, SurvivesMutatedConfigs) {
  open();
  const std::string good = read_all(kData / "adapters/llama_plain_tied/patterns/adapter_config.json");
  survive_mutations(good, 2000, [](const std::string& text) { parse_adapter_config(text, "x"); });
}

TEST_F(AdapterFileTest, SurvivesMutatedTensors) {
  open();
  const auto backend = make_backend({.name = "ref"});
  const std::string good = read_all(folder_.path() / "adapter_model.safetensors");
  survive_mutations(good, 1000, [&](const std::string& bytes) {
    folder_.write("adapter_model.safetensors", bytes);
    load(AdapterFile(folder_.path(), small_model()), *backend);
  });
}

}  // namespace
}  // namespace polylora
