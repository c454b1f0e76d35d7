#include "io/text_assets_writer.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",
};

constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "pad_token"};

/// As transformers writes JSON: indented, UTF-8, one line break at the end.
std::string to_text(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void copy_files(const fs::path& folder, const fs::path& source) {
  std::error_code ignored;
  if (fs::equivalent(folder, source, ignored)) return;
  for (const char* name : kTokenizerFiles) {
    if (path_exists(source / name)) write_file_atomic(folder / name, read_text_file(source / name));
  }
}

/// What the vocabulary's own config leaves to defaults that differ between versions of transformers. Without
/// model_input_names a fast tokenizer adds token_type_ids, which generate() refuses.
json complete_config(const TextAssets& text, const json& hf_config) {
  json config = json::parse(text.tokenizer_config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) config = json::object();
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["clean_up_tokenization_spaces"] = false;
  config["model_input_names"] = {"input_ids", "attention_mask"};
  const auto length = hf_config.find("max_position_embeddings");
  if (length != hf_config.end()) config["model_max_length"] = *length;
  if (!config.contains("pad_token") && config.contains("eos_token"))
    config["pad_token"] = config["eos_token"];
  if (!text.chat_template.empty()) config["chat_template"] = text.chat_template;
  return config;
}

void render_files(const fs::path& folder, const TextAssets& text, const json& hf_config) {
  if (!text.chat_template.empty()) write_file_atomic(folder / "chat_template.jinja", text.chat_template);
  if (text.tokenizer_json.empty()) return;
  const json config = complete_config(text, hf_config);
  json special = json::object();
  for (const char* key : kSpecialTokens) {
    if (config.contains(key)) special[key] = config[key];
  }
  write_file_atomic(folder / "tokenizer.json", text.tokenizer_json);
  write_file_atomic(folder / "tokenizer_config.json", to_text(config));
  write_file_atomic(folder / "special_tokens_map.json", to_text(special));
}

}  // namespace

void write_tokenizer_files(const fs::path& folder, const Checkpoint& checkpoint) {
  if (fs::is_directory(checkpoint.path())) {
    copy_files(folder, checkpoint.path());
  } else {
    render_files(folder, checkpoint.text(), checkpoint.hf_config());
  }
}

}  // namespace polylora
