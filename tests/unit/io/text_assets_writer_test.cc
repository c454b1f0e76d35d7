#include "io/text_assets_writer.h"

#include "io/file_builders.h"

namespace polylora {
namespace {

using namespace testing_files;
using nlohmann::json;
namespace fs = std::filesystem;

/// A GGUF file as far as the writer looks at it.
class FakeGguf final : public Checkpoint {
 public:
  TextAssets assets;
  json hf = {{"max_position_embeddings", 2048}};

  const fs::path& path() const override { return path_; }
  const ModelConfig& config() const override { return config_; }
  const json& hf_config() const override { return hf; }
  const TextAssets& text() const override { return assets; }
  std::string format_name() const override { return "GGUF"; }
  void append_rows(const TensorSpec&, WeightSource&) const override {}
  void drop_pages() const override {}

 private:
  fs::path path_ = "/no/such/model.gguf";
  ModelConfig config_;
};

class TextAssetsWriter : public testing::Test {
 protected:
  json read(const std::string& name) const { return json::parse(read_all(out_.path() / name)); }
  size_t files() const { return static_cast<size_t>(std::distance(fs::directory_iterator(out_.path()), {})); }

  TempFolder out_;
};

TEST_F(TextAssetsWriter, RendersTheFilesOfAGguf) {
  FakeGguf gguf;
  gguf.assets.tokenizer_json = R"({"version":"1.0"})";
  gguf.assets.tokenizer_config_json = R"({"add_bos_token":false,"bos_token":"<s>","eos_token":"</s>",)"
                                      R"("unk_token":"<unk>"})";
  gguf.assets.chat_template = "{{ messages }}\n";
  write_tokenizer_files(out_.path(), gguf);

  EXPECT_EQ(files(), 4u);
  EXPECT_EQ(read_all(out_.path() / "tokenizer.json"), gguf.assets.tokenizer_json);
  EXPECT_EQ(read_all(out_.path() / "chat_template.jinja"), "{{ messages }}\n");
  const json config = read("tokenizer_config.json");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["chat_template"], "{{ messages }}\n");
  EXPECT_EQ(config["model_max_length"], 2048);
  EXPECT_EQ(config["clean_up_tokenization_spaces"], false);
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_EQ(config["pad_token"], "</s>") << "padding needs a token; the peer takes eos, too";
  EXPECT_EQ(
      read("special_tokens_map.json"),
      (json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"pad_token", "</s>"}, {"unk_token", "<unk>"}}));
}

TEST_F(TextAssetsWriter, KeepsThePadTokenThatTheGgufNames) {
  FakeGguf gguf;
  gguf.assets.tokenizer_json = "{}";
  gguf.assets.tokenizer_config_json = R"({"eos_token":"</s>","pad_token":"<pad>"})";
  write_tokenizer_files(out_.path(), gguf);
  EXPECT_EQ(read("tokenizer_config.json")["pad_token"], "<pad>");
  EXPECT_FALSE(read("tokenizer_config.json").contains("chat_template"));
  EXPECT_FALSE(fs::exists(out_.path() / "chat_template.jinja"));
}

TEST_F(TextAssetsWriter, WritesNothingWithoutATokenizer) {
  write_tokenizer_files(out_.path(), FakeGguf());
  EXPECT_EQ(files(), 0u);
}

TEST_F(TextAssetsWriter, CopiesWhatAnHfFolderHas) {
  TempFolder source;
  const fs::path model = fs::path(POLYLORA_TEST_DATA) / "models" / "llama_bf16_tied";
  for (const auto& entry : fs::directory_iterator(model))
    fs::copy_file(entry.path(), source.path() / entry.path().filename());
  source.write("tokenizer.json", "{ \"odd\" :  1}");
  source.write("vocab.json", "{}");
  source.write("chat_template.jinja", "x");
  source.write("notes.txt", "not a tokenizer file");
  const auto checkpoint = Checkpoint::open(source.path());
  write_tokenizer_files(out_.path(), *checkpoint);
  EXPECT_EQ(files(), 3u);
  EXPECT_EQ(read_all(out_.path() / "tokenizer.json"), "{ \"odd\" :  1}");
  EXPECT_EQ(read_all(out_.path() / "chat_template.jinja"), "x");

  write_tokenizer_files(source.path(), *checkpoint);  // onto itself: nothing to do, nothing lost
  EXPECT_EQ(read_all(source.path() / "tokenizer.json"), "{ \"odd\" :  1}");
}

TEST_F(TextAssetsWriter, NamesTheFolderThatCannotBeWritten) {
  FakeGguf gguf;
  gguf.assets.tokenizer_json = "{}";
  expect_error(ErrorCode::kNotFound, {"/no/such/folder/tokenizer.json"},
               [&] { write_tokenizer_files("/no/such/folder", gguf); });
}

}  // namespace
}  // namespace polylora
