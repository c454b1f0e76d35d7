// From a path to everything that serving and chatting need.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "io/checkpoint.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace polylora {

struct LoadOptions {
  std::string model;
  std::string tokenizer;       // folder or tokenizer.json; empty: the model's
  std::string dtype = "auto";  // auto, float32, float, bfloat16, half, float16
  std::string quantization;    // "", q8, q4
  std::string backend = "cpu";
  int threads = 0;
  bool skip_tokenizer_init = false;
  std::string chat_template;               // file or inline Jinja; empty: the model's
  std::string generation_config = "auto";  // auto, vllm (ignore the model's), or a folder
};

struct LoadedModel {
  std::unique_ptr<Checkpoint>
      checkpoint;  // stays open: its maps back nothing after loading, its texts are used
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;         // null with skip_tokenizer_init
  std::unique_ptr<ChatTemplate> chat_template;  // null when the model has none
  std::string bos_token, eos_token;
  nlohmann::json generation_config;
  DType kv_dtype = DType::kBf16;    // what --kv-cache-dtype auto means
  DType lora_dtype = DType::kBf16;  // what --lora-dtype auto means
  std::string weights_description;  // "GGUF Q4_1, held as q4"
  double seconds = 0;
};

/// Draws a progress bar on a terminal when loading takes over a second. Throws with what to do.
LoadedModel load(const LoadOptions& options);

/// One line on stderr: "polylora: warning: …".
void warn(const std::string& message);

}  // namespace polylora
