#include "io/hf_checkpoint.h"

#include <algorithm>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "io/hf_shards.h"
#include "io/json_file.h"
#include "io/quantized_tensors.h"
#include "io/sentencepiece.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string read_if_present(const fs::path& path) {
  return path_exists(path) ? read_text_file(path) : std::string();
}

/// A token is a string or an object with "content".
std::string token_text(const json& config, const char* key) {
  if (!config.contains(key)) return {};
  const json& token = config.at(key);
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) return token["content"];
  return {};
}

/// chat_template is one template, or a list of {name, template} of which "default" is meant.
std::string embedded_chat_template(const json& tokenizer_config) {
  if (!tokenizer_config.contains("chat_template")) return {};
  const json& value = tokenizer_config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return {};
  for (const json& entry : value) {
    if (entry.is_object() && entry.value("name", json()) == "default" &&
        entry.value("template", json()).is_string()) {
      return entry["template"];
    }
  }
  return {};
}

class HfCheckpoint final : public Checkpoint {
 public:
  explicit HfCheckpoint(const fs::path& folder) : folder_(folder) {
    const fs::path config_path = folder / "config.json";
    if (!path_exists(config_path)) {
      fail(ErrorCode::kNotFound, "{} has no config.json: it is not a Hugging Face model folder",
           folder.string());
    }
    hf_config_ = read_json_file(config_path);
    config_ = parse_model_config(hf_config_, config_path.string());
    text_ = read_hf_text_assets(folder);
    add_generation_eos();
    open_shards();
    quantized_ = find_quantized_matrices(hf_config_, tensors_, config_path.string());
  }

  const fs::path& path() const override { return folder_; }
  const ModelConfig& config() const override { return config_; }
  const json& hf_config() const override { return hf_config_; }
  const TextAssets& text() const override { return text_; }
  std::string format_name() const override {
    const std::string_view stored = quantized_.empty() ? dtype_name(tensors_.begin()->second->dtype)
                                                       : quantized_.begin()->second.stored->format_name();
    return fmt::format("safetensors {}", stored);
  }

  void append_rows(const TensorSpec& spec, WeightSource& source) const override {
    if (const auto found = quantized_.find(spec.name); found != quantized_.end())
      return append_quantized(spec, found->second, source);
    const TensorView& tensor = find(spec.name);
    if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBf16) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} is stored as {}; known: F32, F16, BF16", folder_.string(),
           spec.name, dtype_name(tensor.dtype));
    }
    const std::vector<int64_t> expected =
        spec.cols == 0 ? std::vector<int64_t>{spec.rows} : std::vector<int64_t>{spec.rows, spec.cols};
    if (tensor.shape != expected) bad_shape(spec, tensor.shape, expected);
    const int64_t rows = spec.cols == 0 ? 1 : spec.rows;
    source.cols = spec.cols == 0 ? spec.rows : spec.cols;
    const size_t row_bytes = dtype_row_bytes(tensor.dtype, source.cols);
    for (int64_t r = 0; r < rows; ++r) {
      source.rows.push_back({tensor.data.data() + static_cast<size_t>(r) * row_bytes, tensor.dtype});
    }
  }

  void drop_pages() const override {
    for (const auto& file : files_) file->file().drop_pages();
  }

 private:
  void append_quantized(const TensorSpec& spec, const QuantizedMatrix& matrix, WeightSource& source) const {
    if (matrix.rows != spec.rows || matrix.cols != spec.cols)
      bad_shape(spec, {matrix.rows, matrix.cols}, {spec.rows, spec.cols});
    source.cols = spec.cols;
    for (int64_t r = 0; r < spec.rows; ++r)
      source.rows.push_back({.matrix = matrix.stored.get(), .index = r});
  }

  [[noreturn]] void bad_shape(const TensorSpec& spec, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& expected) const {
    fail(ErrorCode::kDataCorrupt, "{}: tensor {} has shape [{}], config.json wants [{}]", folder_.string(),
         spec.name, fmt::join(shape, ", "), fmt::join(expected, ", "));
  }

  const TensorView& find(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return *found->second;
    const char* hint = name == "lm_head.weight" ? " (is tie_word_embeddings missing in config.json?)" : "";
    fail(ErrorCode::kDataCorrupt, "{}: tensor {} is missing{}", folder_.string(), name, hint);
  }

  /// Generation stops on what generation_config.json names as well.
  void add_generation_eos() {
    if (!text_.generation_config.contains("eos_token_id")) return;
    const std::string where = (folder_ / "generation_config.json").string() + ": 'eos_token_id'";
    auto& ids = config_.eos_token_ids;
    for (const int id : parse_token_ids(text_.generation_config["eos_token_id"], where)) {
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
  }

  void open_shards() {
    files_ = open_hf_shards(folder_);
    for (const auto& file : files_) {
      for (const auto& [name, view] : file->tensors()) tensors_.emplace(name, &view);
    }
  }

  fs::path folder_;
  json hf_config_;
  ModelConfig config_;
  TextAssets text_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  TensorsByName tensors_;
  std::map<std::string, QuantizedMatrix> quantized_;  // these read from tensors_
};

bool flag(const json& config, const char* key, bool fallback) {
  return config.contains(key) && config[key].is_boolean() ? config[key].get<bool>() : fallback;
}

/// tokenizer.json made of tokenizer.model, as transformers' fast tokenizers do; empty without one.
std::string from_sentencepiece(const fs::path& folder, const json& config, TextAssets& text) {
  const fs::path path = folder / "tokenizer.model";
  const std::string bytes = read_if_present(path);
  if (bytes.empty()) return {};
  const SentencePieces pieces = parse_sentencepiece_model(bytes, path.string());
  if (text.bos_token.empty()) text.bos_token = pieces.text_of(pieces.bos_id);
  if (text.eos_token.empty()) text.eos_token = pieces.text_of(pieces.eos_id);
  return sentencepiece_tokenizer(pieces, flag(config, "add_bos_token", true),
                                 flag(config, "add_eos_token", false))
      .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

TextAssets read_hf_text_assets(const fs::path& folder) {
  TextAssets text;
  text.tokenizer_json = read_if_present(folder / "tokenizer.json");
  text.tokenizer_config_json = read_if_present(folder / "tokenizer_config.json");
  const json tokenizer_config = read_json_object_if_present(folder / "tokenizer_config.json");
  const json special_tokens = read_json_object_if_present(folder / "special_tokens_map.json");
  text.chat_template = read_if_present(folder / "chat_template.jinja");
  if (text.chat_template.empty()) text.chat_template = embedded_chat_template(tokenizer_config);
  for (const json* source : {&tokenizer_config, &special_tokens}) {  // the older file fills what is missing
    if (text.bos_token.empty()) text.bos_token = token_text(*source, "bos_token");
    if (text.eos_token.empty()) text.eos_token = token_text(*source, "eos_token");
  }
  text.generation_config = read_json_object_if_present(folder / "generation_config.json");
  if (text.tokenizer_json.empty()) text.tokenizer_json = from_sentencepiece(folder, tokenizer_config, text);
  return text;
}

std::unique_ptr<Checkpoint> open_hf_checkpoint(const fs::path& folder) {
  return std::make_unique<HfCheckpoint>(folder);
}

}  // namespace polylora
