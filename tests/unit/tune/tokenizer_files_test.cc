// What training writes of the default model's tokenizer is read back as the same tokenizer.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "io/text_assets_writer.h"
#include "text/tokenizer.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

TEST(TokenizerFiles, OfAGgufReadBackTheSame) {
  const char* named = std::getenv("POLYLORA_DEFAULT_MODEL");
  const fs::path model = named != nullptr
                             ? fs::path(named)
                             : fs::path(POLYLORA_TEST_DATA) / "../../models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(model)) GTEST_SKIP() << model << " is absent; set POLYLORA_DEFAULT_MODEL";
  const auto checkpoint = Checkpoint::open(model);
  const fs::path folder = fs::temp_directory_path() / ("polylora-tokenizer-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  write_tokenizer_files(folder, *checkpoint);
  const auto read = [&](const char* name) { return read_text_file(folder / name); };
  const auto written = Tokenizer::from_json(read("tokenizer.json"), read("tokenizer_config.json"));
  const auto original =
      Tokenizer::from_json(checkpoint->text().tokenizer_json, checkpoint->text().tokenizer_config_json);

  const std::string text = "<|im_start|>user\nNaïve café, 1234 + 5?<|im_end|>\n";
  EXPECT_EQ(written->encode(text, true), original->encode(text, true));
  EXPECT_EQ(written->bos_token(), "<|im_start|>");
  EXPECT_EQ(written->eos_token(), "<|im_end|>");
  EXPECT_EQ(read("chat_template.jinja"), checkpoint->text().chat_template);
  EXPECT_NE(read("special_tokens_map.json").find("\"unk_token\": \"<|endoftext|>\""), std::string::npos);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace polylora
