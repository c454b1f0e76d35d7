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
#include "tune/turn_encoder.h"

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

}  // namespace polylora
