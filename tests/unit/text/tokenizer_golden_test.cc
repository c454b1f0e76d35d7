// The tokenizer against the reference library's answers: ids, texts and streams must be equal, byte for byte.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace polylora {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct Golden {
  std::unique_ptr<Tokenizer> tokenizer;
  json cases;
};

/// Small tokenizers lie in the repository; the others are read from the shared folder when it is there.
fs::path folder_of(const std::string& name) {
  const fs::path own = fs::path(POLYLORA_TEST_DATA) / "text" / "tokenizers" / name;
  return fs::exists(own) ? own : fs::path(POLYLORA_TEST_DATA) / "../../../shared/golden/tokenizers" / name;
}

Golden load(const fs::path& folder) {
  const std::string config = fs::exists(folder / "tokenizer_config.json")
                                 ? read_text_file(folder / "tokenizer_config.json")
                                 : std::string();
  return {Tokenizer::from_json(read_text_file(folder / "tokenizer.json"), config),
          json::parse(read_text_file(folder / "cases.json"))};
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const fs::path folder = folder_of(GetParam());
    if (!fs::exists(folder)) GTEST_SKIP() << "no golden data for " << GetParam() << " on this machine";
    golden_ = load(folder);
  }

  void expect_stream(const json& c, const std::vector<int32_t>& ids) {
    StreamDecoder stream(*golden_.tokenizer, false);
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(stream.push(ids[i]), c["stream"][i].get<std::string>())
          << "at " << i << " of " << c["ids"].dump();
    }
    EXPECT_EQ(stream.flush(), c["stream_flush"].get<std::string>()) << c["ids"].dump();
  }

  Golden golden_;
};

TEST_P(TokenizerGolden, Encode) {
  for (const json& c : golden_.cases["cases"]) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(golden_.tokenizer->encode(text, false), c["ids"].get<std::vector<int32_t>>())
        << c["text"].dump();
    EXPECT_EQ(golden_.tokenizer->encode(text, true), c["ids_special"].get<std::vector<int32_t>>())
        << c["text"].dump();
  }
}

TEST_P(TokenizerGolden, Decode) {
  for (const json& c : golden_.cases["cases"]) {
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    const auto special = c["ids_special"].get<std::vector<int32_t>>();
    const std::string decoded = c["decoded"];
    EXPECT_EQ(golden_.tokenizer->decode(ids, false), decoded) << c["text"].dump();
    EXPECT_EQ(golden_.tokenizer->decode(special, true),
              c.value("decoded_skip_special_from_ids_special", decoded))
        << c["text"].dump();
  }
}

TEST_P(TokenizerGolden, Stream) {
  for (const json& c : golden_.cases["cases"]) {
    if (c.contains("stream")) expect_stream(c, c["ids"].get<std::vector<int32_t>>());
  }
}

TEST_P(TokenizerGolden, RandomIds) {
  for (const json& c : golden_.cases["random_id_cases"]) {
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(golden_.tokenizer->decode(ids, false), c["decoded"].get<std::string>()) << c["ids"].dump();
    EXPECT_EQ(golden_.tokenizer->decode(ids, true), c["decoded_skip_special"].get<std::string>())
        << c["ids"].dump();
    if (c.contains("stream")) expect_stream(c, ids);
  }
}

TEST_P(TokenizerGolden, Vocabulary) {
  const Tokenizer& t = *golden_.tokenizer;
  EXPECT_EQ(t.vocab_size(), golden_.cases["vocab_size"].get<int>());
  for (const auto& [token, id] : golden_.cases["special_tokens"].items()) {
    EXPECT_EQ(t.token_to_id(token), id.get<int32_t>());
    EXPECT_EQ(t.token_string(id.get<int32_t>()), token);
    EXPECT_EQ(t.token_bytes(id.get<int32_t>()), token);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("smollm2", "llama3_style", "qwen2_style", "gpt2_style",
                                           "deepseek_style", "llama2_style", "mistral_style", "gemma_style",
                                           "mistral_v1_real"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace polylora
