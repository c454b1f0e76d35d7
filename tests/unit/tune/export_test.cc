// What an export leaves on the disk, and that it computes what base and adapter computed.
#include "tune/merge/export.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "io/checkpoint.h"
#include "io/file_builders.h"
#include "io/gguf.h"
#include "io/gguf_checkpoint.h"
#include "io/gguf_metadata.h"
#include "io/gguf_tokenizer.h"
#include "io/hf_checkpoint.h"
#include "io/peft_adapter.h"
#include "text/tokenizer.h"
#include "tune/merge/verify.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing_files::expect_error;
using testing_files::TempFolder;
using testing_files::TensorSet;

const fs::path kData = POLYLORA_TEST_DATA;

fs::path model(const std::string& name) {
  return kData / "models" / name;
}
fs::path adapter(const std::string& base, const std::string& name) {
  return kData / "adapters" / base / name;
}

ExportConfig job(const fs::path& base, const std::vector<fs::path>& adapters, const fs::path& out) {
  ExportConfig config;
  config.model_name_or_path = base.string();
  for (const fs::path& folder : adapters) config.adapter_name_or_path.push_back(folder.string());
  config.export_dir = out;
  return config;
}

std::string bytes_of(const TensorView& tensor) {
  return {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()};
}

/// All tensors of a folder's weight files, by name.
std::map<std::string, std::string> weights_in(const fs::path& folder) {
  std::map<std::string, std::string> weights;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const auto& [name, tensor] : file.tensors()) weights[name] = bytes_of(tensor);
  }
  return weights;
}

json config_of(const fs::path& folder) {
  return json::parse(read_text_file(folder / "config.json"));
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

VerifyReport verify(const fs::path& base, const fs::path& lora, const fs::path& merged) {
  VerifyOptions options{.base = base, .adapter = lora, .merged = merged};
  options.prompts = 4;
  options.tokens = 6;
  options.dtype = "float32";
  options.backend.threads = 2;
  return verify_merge(options);
}

TEST(Export, WritesAModelFolder) {
  const TempFolder out;
  out.write("notes.txt", "mine");
  const ExportReport report =
      export_model(job(model("llama_plain_tied"), {adapter("llama_plain_tied", "r8_all")}, out.path()));
  EXPECT_THAT(names_in(out.path()), testing::ElementsAre("config.json", "generation_config.json",
                                                         "model.safetensors", "notes.txt"));
  EXPECT_EQ(report.dtype, "BF16") << "a float32 model is exported as bfloat16";
  EXPECT_EQ(report.merged, 21u);
  const json config = config_of(out.path());
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(weights_in(out.path()).count("lm_head.weight"), 0u);
}

TEST(Export, ComputesWhatBaseAndAdapterCompute) {
  for (const auto& [base, lora] :
       std::vector<std::pair<std::string, std::string>>{{"llama_plain_tied", "r8_all"},
                                                        {"llama_llama3rope_untied", "patterns"},
                                                        {"llama_v5cfg_bias", "r8_all"},
                                                        {"llama_plain_tied", "r64_rslora"}}) {
    const TempFolder exact, rounded;
    ExportConfig config = job(model(base), {adapter(base, lora)}, exact.path());
    config.infer_dtype = "float32";
    export_model(config);
    const VerifyReport report = verify(model(base), adapter(base, lora), exact.path());
    EXPECT_TRUE(report.agrees) << base;
    EXPECT_LE(report.merged.max_logit_difference, 2e-4) << base;
    EXPECT_EQ(report.merged.greedy_agreement, 1.0) << base;
    EXPECT_GT(report.base.mean_kl, 1e-3) << "the adapter must matter, or this test says nothing";

    export_model(job(model(base), {adapter(base, lora)}, rounded.path()));
    const VerifyReport in_bf16 = verify(model(base), adapter(base, lora), rounded.path());
    EXPECT_TRUE(in_bf16.agrees) << base << " " << in_bf16.merged.mean_kl;
    EXPECT_GT(in_bf16.merged.mean_kl, report.merged.mean_kl) << "rounding shows";
  }
}

const fs::path kShared = kData / "../../../shared/golden";  // may be absent

/// A golden model whose config.json llama.cpp can express.
fs::path expressible(const std::string& name, const TempFolder& out) {
  fs::copy(kShared / "models" / name, out.path() / name);
  json config = config_of(out.path() / name);
  if (config.contains("query_pre_attn_scalar")) config["query_pre_attn_scalar"] = config["head_dim"];
  if (config.contains("sliding_window_pattern")) config["sliding_window_pattern"] = 6;
  fs::permissions(out.path() / name / "config.json", fs::perms::owner_write, fs::perm_options::add);
  std::ofstream(out.path() / name / "config.json") << config;
  return out.path() / name;
}

TEST(Export, ComputesWhatBaseAndAdapterComputeForEveryArchitecture) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  for (const char* name : {"qwen2_sharded", "qwen3", "mistral_swa", "gemma2", "gemma3_text", "phi3",
                           "phi3_longrope", "mixtral_moe", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    const TempFolder out;
    const fs::path adapters = kShared / "adapters" / name, base = expressible(name, out);
    const fs::path lora = adapters / (fs::exists(adapters / "r8_all") ? "r8_all" : "r8_attn");
    for (const char* format : {"safetensors", "gguf"}) {
      ExportConfig config = job(base, {lora}, out.path() / format);
      config.infer_dtype = "float32";
      config.format = format;
      const ExportReport report = export_model(config);
      const bool is_gguf = std::string(format) == "gguf";
      const VerifyReport same = verify(base, lora, is_gguf ? report.files.front() : config.export_dir);
      EXPECT_TRUE(same.agrees) << format;
      EXPECT_LE(same.merged.max_logit_difference, 2e-4) << format;
      EXPECT_GT(same.base.mean_kl, 1e-3);
    }
  }
}

/// Gemma's norms are gains in GGUF and gains minus one in a Hugging Face folder.
TEST(Export, FromGgufGivesTheHfFolderBack) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  for (const char* name : {"qwen3", "gemma2", "gemma3_text", "phi3", "mixtral_moe", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    const TempFolder out;
    const fs::path base = expressible(name, out);
    ExportConfig to_gguf = job(base, {}, out.path() / "gguf"), back = to_gguf;
    to_gguf.infer_dtype = back.infer_dtype = "float32";
    to_gguf.format = "gguf";
    back.model_name_or_path = export_model(to_gguf).files.front().string();
    back.export_dir = out.path() / "hf";
    export_model(back);
    const auto want = Checkpoint::open(base), got = Checkpoint::open(back.export_dir);
    EXPECT_EQ(got->config().norm_offset, want->config().norm_offset);
    for_each_tensor(want->config(), [&](const TensorSpec& spec) {
      WeightSource a, b;
      want->append_rows(spec, a);
      got->append_rows(spec, b);
      ASSERT_EQ(a.rows.size(), b.rows.size()) << spec.name;
      std::vector<float> x(static_cast<size_t>(a.cols)), y(x);
      for (size_t r = 0; r < a.rows.size(); ++r) {
        dequantize_row(a.rows[r].dtype, a.rows[r].data, a.cols, x.data());
        dequantize_row(b.rows[r].dtype, b.rows[r].data, b.cols, y.data());
        for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-6) << spec.name;
      }
    });
  }
}

TEST(ExportGguf, RefusesWhatLlamaCppAssumesOtherwise) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "no golden models at " << kShared;
  const TempFolder out;
  for (const auto& [name, what] :
       {std::pair{"gemma2", "query_pre_attn_scalar"}, std::pair{"gemma3_text", "pattern"}}) {
    ExportConfig config = job(kShared / "models" / name, {}, out.path() / name);
    config.format = "gguf";
    expect_error(ErrorCode::kUnsupported, {what, "safetensors"}, [&] { export_model(config); });
  }
}

TEST(Verify, TellsAnotherModel) {
  const fs::path base = model("llama_plain_tied");
  const TempFolder out;
  export_model(job(base, {adapter("llama_plain_tied", "r4_attn")}, out.path()));
  EXPECT_FALSE(verify(base, adapter("llama_plain_tied", "r8_all"), out.path()).agrees);
  EXPECT_FALSE(verify(base, adapter("llama_plain_tied", "r8_all"), base).agrees) << "the bare base";
  expect_error(ErrorCode::kInvalidArgument, {"vocabulary"},
               [&] { verify(base, adapter("llama_plain_tied", "r8_all"), model("llama_v5cfg_bias")); });
}

TEST(Export, ShardsHoldTheSameTensors) {
  const TempFolder whole, sharded;
  const fs::path base = model("llama_llama3rope_untied"), lora = adapter("llama_llama3rope_untied", "r8_all");
  export_model(job(base, {lora}, whole.path()));
  ExportConfig config = job(base, {lora}, sharded.path());
  config.export_size = 150e3 / 1e9;
  sharded.write("model.safetensors", "of an earlier export");
  sharded.write("model-00001-of-00099.safetensors", "too");
  const ExportReport report = export_model(config);
  EXPECT_EQ(weights_in(whole.path()), weights_in(sharded.path()));

  const json index = json::parse(read_text_file(sharded.path() / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], report.bytes);
  std::set<std::string> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    shards.insert(shard.get<std::string>());
    EXPECT_TRUE(SafetensorsFile(sharded.path() / shard.get<std::string>()).tensors().contains(name));
  }
  EXPECT_GE(shards.size(), 4u);
  EXPECT_TRUE(shards.contains(fmt::format("model-00001-of-{:05d}.safetensors", shards.size())));
  for (const std::string& shard : shards) EXPECT_LE(fs::file_size(sharded.path() / shard), 160e3) << shard;
  EXPECT_FALSE(fs::exists(sharded.path() / "model.safetensors")) << "it would be loaded instead";
  EXPECT_FALSE(fs::exists(sharded.path() / "model-00001-of-00099.safetensors"));
  EXPECT_TRUE(verify(base, lora, sharded.path()).agrees);
}

TEST(Export, TheNumberOfThreadsChangesNothing) {
  const TempFolder one, three;
  for (const auto& [folder, threads] : {std::pair(&one, 1), std::pair(&three, 3)}) {
    ExportConfig config =
        job(model("llama_bf16_tied"), {adapter("llama_bf16_tied", "r64_rslora")}, folder->path());
    config.threads = threads;
    export_model(config);
  }
  EXPECT_EQ(weights_in(one.path()), weights_in(three.path()));
}

TEST(Export, SeveralAdaptersAreMergedOneAfterAnother) {
  const fs::path base = model("llama_bf16_tied");
  const fs::path first = adapter("llama_bf16_tied", "r8_all"),
                 second = adapter("llama_bf16_tied", "patterns");
  const TempFolder together, half, step, reversed;
  export_model(job(base, {first, second}, together.path()));
  export_model(job(base, {first}, half.path()));
  export_model(job(half.path(), {second}, step.path()));
  export_model(job(base, {second, first}, reversed.path()));
  EXPECT_EQ(weights_in(together.path()), weights_in(step.path()));
  EXPECT_NE(weights_in(together.path()), weights_in(reversed.path())) << "bf16 rounds after each";
}

TEST(Export, WithoutAdaptersTheModelIsRewritten) {
  const TempFolder out;
  ExportConfig config = job(model("llama_plain_tied"), {}, out.path());
  config.infer_dtype = "float32";
  const ExportReport report = export_model(config);
  EXPECT_EQ(report.merged, 0u);
  EXPECT_EQ(weights_in(out.path()), weights_in(model("llama_plain_tied")));
  config.infer_dtype = "float16";
  export_model(config);
  EXPECT_EQ(config_of(out.path())["torch_dtype"], "float16");
  const SafetensorsFile file(out.path() / "model.safetensors");
  EXPECT_EQ(file.tensors().at("model.norm.weight").dtype, DType::kF16);
}

/// An adapter for llama_plain_tied (vocabulary 384 or so, width 64) that trains lm_head.
class TiedHead : public testing::Test {
 protected:
  void SetUp() override {
    const json config = config_of(base_);
    vocab_ = config["vocab_size"];
    width_ = config["hidden_size"];
  }
  fs::path write(TensorSet& tensors, const std::string& more = "") {
    lora_.write("adapter_config.json", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4)" + more + "}");
    tensors.write(lora_.path() / "adapter_model.safetensors");
    return lora_.path();
  }
  std::map<std::string, std::string> exported(const fs::path& lora) {
    ExportConfig config = job(base_, {lora}, out_.path());
    config.infer_dtype = "float32";
    export_model(config);
    return weights_in(out_.path());
  }

  const fs::path base_ = model("llama_plain_tied");
  int64_t vocab_ = 0, width_ = 0;
  TempFolder lora_, out_;
};

TEST_F(TiedHead, TrainedInFullIsWrittenApart) {
  TensorSet tensors;
  tensors.add_constant("base_model.model.lm_head.weight", vocab_, width_, 0.25f);
  const auto weights = exported(write(tensors, R"(, "modules_to_save": ["lm_head"])"));
  EXPECT_EQ(config_of(out_.path())["tie_word_embeddings"], false);
  EXPECT_EQ(weights.at("model.embed_tokens.weight"), weights_in(base_).at("model.embed_tokens.weight"));
  float first;
  std::memcpy(&first, weights.at("lm_head.weight").data(), sizeof first);
  EXPECT_EQ(first, 0.25f);
  EXPECT_EQ(Checkpoint::open(out_.path())->config().tie_word_embeddings, false);
}

TEST_F(TiedHead, LoraOnTheEmbeddingLeavesTheHeadAlone) {
  TensorSet tensors;
  tensors.add_constant("base_model.model.model.embed_tokens.lora_embedding_A", 2, vocab_, 0.5f)
      .add_constant("base_model.model.model.embed_tokens.lora_embedding_B", width_, 2, 0.5f);
  const auto weights = exported(write(tensors));
  const std::string before = weights_in(base_).at("model.embed_tokens.weight");
  EXPECT_EQ(weights.at("lm_head.weight"), before);
  float was, is;
  std::memcpy(&was, before.data(), sizeof was);
  std::memcpy(&is, weights.at("model.embed_tokens.weight").data(), sizeof is);
  EXPECT_EQ(is, was + 1.0f);  // scale 2 · (2 ranks of 0.25)
}

TEST_F(TiedHead, EnsureWeightTyingKeepsThemOne) {
  TensorSet tensors;
  tensors.add_constant("base_model.model.model.embed_tokens.weight", vocab_, width_, 0.25f);
  const auto weights =
      exported(write(tensors, R"(, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": true)"));
  EXPECT_EQ(config_of(out_.path())["tie_word_embeddings"], true);
  EXPECT_FALSE(weights.contains("lm_head.weight"));
}

class Refusals : public testing::Test {
 protected:
  void refuse(ErrorCode code, const std::vector<std::string>& parts) {
    tensors_.write(lora_.path() / "adapter_model.safetensors");
    const fs::path out = lora_.path() / "out";
    expect_error(code, parts, [&] { export_model(job(model("llama_plain_tied"), {lora_.path()}, out)); });
    EXPECT_FALSE(fs::exists(out)) << "a refused export leaves nothing";
  }
  void config(const std::string& text) { lora_.write("adapter_config.json", text); }

  static constexpr const char* kQ = "base_model.model.model.layers.0.self_attn.q_proj";
  TempFolder lora_;
  TensorSet tensors_;
};

TEST_F(Refusals, AdaptersThatDoNotFit) {
  config(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4})");
  refuse(ErrorCode::kDataCorrupt, {"holds no tensors"});
  tensors_.add_constant("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", 2, 64);
  refuse(ErrorCode::kDataCorrupt, {"layers.9.self_attn.q_proj", "lora_B is missing"});
  tensors_.add_constant("base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight", 64, 2);
  refuse(ErrorCode::kUnsupported, {"layers.9.self_attn.q_proj", "matches nothing in the base model"});
}

TEST_F(Refusals, WrongShapesAndValues) {
  config(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4})");
  tensors_.add_constant(std::string(kQ) + ".lora_A.weight", 2, 63);
  tensors_.add_constant(std::string(kQ) + ".lora_B.weight", 64, 2);
  refuse(ErrorCode::kDataCorrupt, {"q_proj.lora_A", "[2, 63]", "[2, 64]"});
  tensors_.add_constant(std::string(kQ) + ".lora_A.weight", 3, 64);
  refuse(ErrorCode::kDataCorrupt, {"q_proj.lora_A", "rank 2"});
  tensors_.add_constant(std::string(kQ) + ".lora_A.weight", 2, 64, std::numeric_limits<float>::quiet_NaN());
  refuse(ErrorCode::kDataCorrupt, {"q_proj.lora_A", "NaN"});
  tensors_.add_constant(std::string(kQ) + ".lora_A.weight", 2, 64);
  config(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true})");
  refuse(ErrorCode::kDataCorrupt, {"lora_magnitude_vector is missing"});
  config(R"({"peft_type": "IA3"})");
  refuse(ErrorCode::kUnsupported, {"IA3"});
}

TEST_F(Refusals, BiasOfAModelWithoutBiases) {
  config(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_bias": true})");
  tensors_.add_constant(std::string(kQ) + ".lora_A.weight", 2, 64);
  tensors_.add_constant(std::string(kQ) + ".lora_B.weight", 64, 2);
  tensors_.add(std::string(kQ) + ".lora_B.bias", {64}, std::vector<float>(64, 1.0f));
  refuse(ErrorCode::kUnsupported, {"q_proj.bias"});
}

TEST(ExportRefusals, FoldersAndQuantisedBases) {
  const TempFolder base, out;
  fs::copy(model("llama_plain_tied"), base.path(),
           fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  expect_error(ErrorCode::kInvalidArgument, {"own folder"},
               [&] { export_model(job(base.path(), {}, base.path())); });
  json config = config_of(base.path());
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  base.write("config.json", config.dump());
  expect_error(ErrorCode::kUnsupported, {"gptq", "quantised"},
               [&] { export_model(job(base.path(), {}, out.path() / "x")); });
  expect_error(ErrorCode::kNotFound, {"No adapter found for", "missing"}, [&] {
    export_model(job(model("llama_plain_tied"), {out.path() / "missing"}, out.path() / "x"));
  });
  ExportConfig typo = job(model("llama_plain_tied"), {}, out.path() / "x");
  typo.template_name = "lama3";
  expect_error(ErrorCode::kInvalidArgument, {"lama3"}, [&] { export_model(typo); });
  EXPECT_TRUE(fs::is_empty(out.path()));
}

TEST(Export, InterruptedItLeavesNothing) {
  const TempFolder parent;
  const std::atomic<bool> cancelled = true;
  const ExportConfig config = job(model("llama_plain_tied"), {}, parent.path() / "out");
  expect_error(ErrorCode::kUnavailable, {"interrupted"}, [&] { export_model(config, {}, &cancelled); });
  EXPECT_TRUE(fs::is_empty(parent.path()));

  fs::create_directories(parent.path() / "out");
  write_file_atomic(parent.path() / "out/model.safetensors", "the old one");
  expect_error(ErrorCode::kUnavailable, {"interrupted"}, [&] { export_model(config, {}, &cancelled); });
  EXPECT_THAT(names_in(parent.path() / "out"), testing::ElementsAre("model.safetensors"));
  EXPECT_EQ(read_text_file(parent.path() / "out/model.safetensors"), "the old one");
}

TEST(Export, WhatAKilledExportLeftIsRemoved) {
  const TempFolder out;
  const std::string mine = fmt::format("model.safetensors.tmp-{}-99", ::getpid());
  out.write("model.safetensors.tmp-2147483647-0", "no process has this number");
  out.write(mine, "this one is alive");
  out.write("notes.tmp-2147483647-0", "not a weight file");
  export_model(job(model("llama_plain_tied"), {}, out.path()));
  EXPECT_FALSE(fs::exists(out.path() / "model.safetensors.tmp-2147483647-0"));
  EXPECT_TRUE(fs::exists(out.path() / mine));
  EXPECT_TRUE(fs::exists(out.path() / "notes.tmp-2147483647-0"));
}

TEST(ExportGguf, ComputesTheSameAsTheFolder) {
  for (const std::string base : {"llama_plain_tied", "llama_llama3rope_untied", "llama_bf16_tied"}) {
    const fs::path lora = adapter(base, "r8_all");
    const TempFolder folder, gguf, back;
    for (const auto& [format, out] : {std::pair("safetensors", &folder), std::pair("gguf", &gguf)}) {
      ExportConfig config = job(model(base), {lora}, out->path());
      config.infer_dtype = "float32";
      config.format = format;
      export_model(config);
    }
    const auto a = verify(model(base), lora, folder.path());
    const auto b = verify(model(base), lora, gguf.path() / "model.gguf");
    EXPECT_TRUE(b.agrees);
    const double room = base == "llama_llama3rope_untied" ? 1e-4 : 0.0;  // frequencies via f32 divisors
    EXPECT_NEAR(a.merged.max_logit_difference, b.merged.max_logit_difference, room) << base;
    EXPECT_NEAR(a.merged.mean_kl, b.merged.mean_kl, room) << base;

    ExportConfig again = job(gguf.path() / "model.gguf", {}, back.path());
    again.infer_dtype = "float32";
    export_model(again);
    EXPECT_EQ(weights_in(back.path()), weights_in(folder.path())) << "a GGUF base has the same weights";
    EXPECT_TRUE(fs::exists(back.path() / "generation_config.json"));
  }
}

std::vector<float> floats_of(const TensorView& tensor) {
  std::vector<float> values(tensor.data.size() / sizeof(float));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

/// base + alpha/R · B·A as llama.cpp applies an adapter.
std::vector<float> apply(const GgufFile& base, const GgufFile& lora, const std::string& name) {
  std::vector<float> w = floats_of(base.tensors().at(name));
  const TensorView &view_a = lora.tensors().at(name + ".lora_a"),
                   &view_b = lora.tensors().at(name + ".lora_b");
  const std::vector<float> a = floats_of(view_a), b = floats_of(view_b);
  const auto rank = static_cast<size_t>(view_b.shape[1]), cols = a.size() / rank;
  const float scale = static_cast<float>(lora.get<double>("adapter.lora.alpha")) / static_cast<float>(rank);
  for (size_t i = 0; i < w.size(); ++i) {
    float sum = 0;
    for (size_t r = 0; r < rank; ++r) sum += b[i / cols * rank + r] * a[r * cols + i % cols];
    w[i] += scale * sum;
  }
  return w;
}

TEST(ExportGgufLora, AppliedToTheBaseItGivesTheMergedModel) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"llama_llama3rope_untied", "r8_all"},
                                                                  {"llama_llama3rope_untied", "patterns"},
                                                                  {"llama_plain_tied", "r64_rslora"}};
  for (const auto& [base_name, lora] : cases) {
    const std::string& name = base_name;  // a binding cannot be captured by the lambda below
    const TempFolder out;
    const auto write = [&](const std::string& format, const std::vector<fs::path>& adapters) {
      ExportConfig config =
          job(model(name), adapters, out.path() / (format + (adapters.empty() ? "0" : "1")));
      config.infer_dtype = "float32";
      config.format = format;
      return export_model(config).files.front();
    };
    const GgufFile base(write("gguf", {})), merged(write("gguf", {adapter(name, lora)})),
        alone(write("gguf-lora", {adapter(name, lora)}));
    EXPECT_EQ(alone.get<std::string>("general.type"), "adapter");
    EXPECT_EQ(alone.get<std::string>("adapter.type"), "lora");
    EXPECT_EQ(alone.get<std::string>("general.architecture"), "llama");
    size_t compared = 0;
    for (const auto& [tensor, view] : merged.tensors()) {
      if (!alone.tensors().contains(tensor + ".lora_a")) continue;
      const std::vector<float> want = floats_of(view), got = apply(base, alone, tensor);
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(want[i], got[i], 2e-6) << tensor << " " << i;
      ++compared;
    }
    EXPECT_EQ(2 * compared, alone.tensors().size());
    EXPECT_GT(compared, 0u);
  }
}

TEST(ExportGgufLora, RefusesWhatHasNoSuchForm) {
  const TempFolder out;
  ExportConfig config =
      job(model("llama_plain_tied"), {kData / "merge/adapters/llama_plain_tied/dora_r8"}, out.path() / "x");
  config.format = "gguf-lora";
  expect_error(ErrorCode::kUnsupported, {"DoRA", "format: gguf"}, [&] { export_model(config); });
}

class GgufVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(GgufVocabulary, ReadsBackAsTheSameTokenizer) {
  const fs::path source = kData / "text/tokenizers" / GetParam();
  TextAssets text = read_hf_text_assets(source);
  const auto original = Tokenizer::from_json(text.tokenizer_json, text.tokenizer_config_json);
  ModelConfig config;
  config.vocab_size = original->vocab_size() + 3;  // padded, as checkpoints often are
  GgufMetadata metadata;
  add_gguf_tokenizer(config, text, source.string(), metadata);
  const TempFolder folder;
  open_gguf_writer(folder.path() / "x.gguf", metadata, {})->commit();

  TextAssets read;
  read_gguf_tokenizer(GgufFile(folder.path() / "x.gguf"), config.vocab_size, read);
  const auto again = Tokenizer::from_json(read.tokenizer_json, read.tokenizer_config_json);
  EXPECT_EQ(read.bos_token, text.bos_token);
  EXPECT_EQ(read.eos_token, text.eos_token);
  EXPECT_EQ(read.chat_template, text.chat_template);
  for (const std::string sample : {"Hello world", "  naïve café 12345 + 6\n\n\tdef f(x):",
                                   "日本語 🙂 <|im_start|>x", "<|begin_of_text|>I'll'VE don't"}) {
    EXPECT_EQ(again->encode(sample, true), original->encode(sample, true)) << sample;
    EXPECT_EQ(again->encode(sample, false), original->encode(sample, false)) << sample;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufVocabulary, testing::Values("smollm2", "qwen2_style", "llama3_style"));

}  // namespace
}  // namespace polylora
