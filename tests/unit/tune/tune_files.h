// Files for the tests of data loading: a folder with a dataset_info.json and data, gone at the end.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"
#include "text/tokenizer.h"
#include "tune/data/turn_encoder.h"

namespace polylora {

class DataFolder {
 public:
  DataFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("tune_data.{}.{}", ::getpid(), ++count);
    std::filesystem::create_directories(path_);
  }
  ~DataFolder() { std::filesystem::remove_all(path_); }
  DataFolder(const DataFolder&) = delete;
  DataFolder& operator=(const DataFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view content) const {
    write_file_atomic(path_ / name, content);
  }

 private:
  std::filesystem::path path_;
};

/// A tokenizer of tests/data and what its files say about the model's text.
struct TestTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  ModelText text;

  explicit TestTokenizer(const std::string& name) {
    const std::filesystem::path data = POLYLORA_TEST_DATA;
    const std::filesystem::path shared = data / "text" / "tokenizers" / name;
    const std::filesystem::path folder =
        path_exists(shared) ? shared : data / "llamafactory" / "tokenizers" / name;
    tokenizer = Tokenizer::from_json(read_text_file(folder / "tokenizer.json"),
                                     read_text_file(folder / "tokenizer_config.json"));
    text.bos_token = tokenizer->bos_token().value_or("");
    text.eos_token = tokenizer->eos_token().value_or("");
  }
};

/// A byte-level tokenizer that knows the special tokens of every chat format; bos <s>, eos </s>.
struct FormatTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  ModelText text;

  FormatTokenizer() {
    nlohmann::json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    int id = 6000;
    for (const char* token : {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
                              "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<start_of_turn>",
                              "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"})
      config["added_tokens_decoder"][std::to_string(id++)] = {{"content", token}, {"special", true}};
    tokenizer = Tokenizer::from_json(read_text_file(std::filesystem::path(POLYLORA_TEST_DATA) /
                                                    "text/tokenizers/deepseek_style/tokenizer.json"),
                                     config.dump());
    text.bos_token = "<s>";
    text.eos_token = "</s>";
  }
};

/// The message of the Error that `action` throws; empty when it throws none.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace polylora
