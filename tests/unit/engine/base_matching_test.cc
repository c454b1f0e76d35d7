#include "engine/base_matching.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "engine/adapter_registry.h"
#include "engine/tiny_model.h"
#include "io/adapter_source.h"
#include "model/fingerprint.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class BaseMatching : public ::testing::Test {
 protected:
  BaseMatching() {
    wide_.config = testing::tiny_config();
    wide_.config.hidden_size = 64;
    wide_.config.head_dim = 16;
  }

  /// Two bases of one shape, and one that is wider.
  std::vector<AdapterBase> bases() const {
    return {{.model = &tiny_, .names = {"one", "org/first"}, .path = "/models/alpha", .fingerprint = "f1"},
            {.model = &tiny_, .names = {"two"}, .path = "/models/beta", .fingerprint = "f2"},
            {.model = &wide_, .names = {"wide"}, .path = "/models/wide", .fingerprint = "f3"}};
  }

  /// An adapter for the tiny shape that says it was trained on `base_model`.
  fs::path adapter(const std::string& base_model, const std::string& fingerprint = {}) const {
    const fs::path folder = testing::write_adapter(folder_ / ("a" + std::to_string(++made_)), 1);
    std::ofstream(folder / "adapter_config.json")
        << R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj","v_proj","down_proj"],)"
        << R"("base_model_name_or_path":")" << base_model << "\"}";
    if (!fingerprint.empty()) {
      const fs::path weights = folder / "adapter_model.safetensors", plain = folder / "plain.safetensors";
      fs::rename(weights, plain);
      write_safetensors(weights, SafetensorsFile(plain).tensors(), {{kBaseFingerprintKey, fingerprint}});
    }
    return folder;
  }

  std::string refusal(const fs::path& folder, const std::string& name = {}) const {
    try {
      match_base(folder, name, bases());
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }

  const std::unique_ptr<Backend> backend_ = make_backend({.name = "cpu", .threads = 1});
  const Model tiny_ = testing::tiny_model(*backend_);
  Model wide_;  // without weights: shapes are enough to match
  const testing::TempFolder folder_;
  mutable int made_ = 0;
};

TEST_F(BaseMatching, AGivenNameDecides) {
  EXPECT_EQ(match_base(adapter("one"), "two", bases()).base, 1u);
  EXPECT_EQ(match_base(adapter("x"), "org/first", bases()).base, 0u);
  EXPECT_THAT(refusal(adapter("one"), "three"),
              HasSubstr("base_model_name 'three' is not one of the base models served here: one, org/first, "
                        "two, wide"));
  EXPECT_THAT(refusal(adapter("one"), "wide"), HasSubstr("does not fit this base model"));
}

TEST_F(BaseMatching, OneBaseIsTheBaseWhateverIsSaid) {
  const std::vector<AdapterBase> one{bases().front()};
  EXPECT_EQ(match_base(adapter("x"), "unknown", one).base, 0u);
}

TEST_F(BaseMatching, ShapesDecideWhereOneFits) {
  std::vector<AdapterBase> two = bases();
  two.erase(two.begin());
  EXPECT_EQ(match_base(adapter("x"), "", two).base, 0u);
  EXPECT_EQ(match_base(adapter("wide"), "", two).base, 0u) << "what the config says cannot be";
}

TEST_F(BaseMatching, WhatTheConfigNamesDecidesWhereSeveralFit) {
  EXPECT_EQ(match_base(adapter("one"), "", bases()).base, 0u);
  EXPECT_EQ(match_base(adapter("two"), "", bases()).base, 1u);
  EXPECT_EQ(match_base(adapter("/models/beta/"), "", bases()).base, 1u);
  EXPECT_EQ(match_base(adapter("/home/trainer/beta"), "", bases()).base, 1u) << "by its last part";
  EXPECT_EQ(match_base(adapter("first"), "", bases()).base, 0u) << "by a name's last part";
  EXPECT_EQ(match_base(adapter("two", "f1"), "", bases()).base, 1u) << "the name comes first";
}

TEST_F(BaseMatching, TheFingerprintDecidesWhereNoNameDoes) {
  EXPECT_EQ(match_base(adapter("/elsewhere", "f2"), "", bases()).base, 1u);
  EXPECT_EQ(match_base(adapter("", "f1"), "", bases()).base, 0u);
}

TEST_F(BaseMatching, WhatIsNotClearIsRefusedNamingTheCandidates) {
  EXPECT_THAT(refusal(adapter("/elsewhere")),
              HasSubstr("fits several base models (one, two) and does not tell which it was trained on; name "
                        "one with base_model_name"));
  EXPECT_THAT(refusal(adapter("/elsewhere", "f9")), HasSubstr("(one, two)"));
}

TEST_F(BaseMatching, WhatFitsNoneIsRefusedWithEachReason) {
  Model narrow;
  narrow.config = testing::tiny_config();
  narrow.config.hidden_size = 16;
  const std::vector<AdapterBase> others{{.model = &wide_, .names = {"wide"}},
                                        {.model = &narrow, .names = {"narrow"}}};
  try {
    match_base(adapter("x"), "", others);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("fits none of the base models: wide: "));
    EXPECT_THAT(error.what(), HasSubstr("; narrow: "));
  }
  try {
    match_base(folder_ / "absent", "", others);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound) << "which is not about bases";
    EXPECT_THAT(error.what(), HasSubstr("No adapter found for"));
  }
}

TEST_F(BaseMatching, OneRegistryHoldsTheAdaptersOfAllBasesInOneBudget) {
  AdapterRegistry registry(bases(), *backend_, {.memory_bytes = 1 << 20, .max_cpu_loras = 1});
  using Mode = AdapterRegistry::LoadMode;
  registry.add("a", adapter("one"), Mode::kNow, false);
  registry.add("b", adapter("x"), Mode::kNow, false, "two");
  EXPECT_THROW(registry.add("b", adapter("one"), Mode::kNow, false), Error) << "names are unique over bases";
  const auto infos = registry.list();
  EXPECT_EQ(infos[0].base_model_name, "one");
  EXPECT_FALSE(infos[0].resident) << "it made room for another base's";
  EXPECT_EQ(infos[1].base_model_name, "two");
  EXPECT_TRUE(infos[1].resident);
  EXPECT_EQ(adapter_base(registry.lease("a")), 0u);
  EXPECT_EQ(adapter_base(registry.lease("b")), 1u);
  const std::vector<StackTerm> mixed{{registry.lease("a")}, {registry.lease("b")}};
  EXPECT_THROW(registry.stack(mixed), Error);
}

TEST(BaseFingerprint, TellsModelsApartByTheirNorms) {
  const auto backend = make_backend({.name = "cpu", .threads = 1});
  const Model model = testing::tiny_model(*backend);
  Model other = testing::tiny_model(*backend);
  EXPECT_EQ(base_fingerprint(model), base_fingerprint(other));
  EXPECT_EQ(base_fingerprint(model).size(), 16u);
  other.layers.back().norms.front().front() += 1e-3f;
  EXPECT_NE(base_fingerprint(model), base_fingerprint(other));
}

}  // namespace
}  // namespace polylora
