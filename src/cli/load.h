// From a path to everything that serving a base model takes. Shared by `serve` and `chat`.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/progress.h"
#include "io/checkpoint.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "serve/server.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace polylora {

struct LoadOptions {
  std::string model;                       // HF folder, .gguf file or hub id
  std::string revision;                    // of a hub id that names none; empty: main
  std::string tokenizer;                   // folder or tokenizer.json; empty: the model's
  bool skip_tokenizer = false;             // token ids only
  std::string chat_template;               // file or Jinja text; empty: the model's
  std::string generation_config = "auto";  // "auto": the model's; "vllm": none; else a folder or file
  WeightPolicy policy = WeightPolicy::kNative;
  BackendOptions backend;
};

struct LoadedModel {
  std::shared_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;       // null with skip_tokenizer
  std::optional<ChatTemplate> chat_template;  // absent when the model has none
  std::string format;                         // "GGUF Q4_1"
  /// Token strings and generation defaults; names, limits and the pointers are for the caller to fill in.
  ServedModel text;
};

/// The tokenizer of a tokenizer.json, of a folder with one, or of a .gguf file. Throws what reading them
/// does.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

/// Takes what a generation_config.json has of temperature, top_p, … as the defaults of requests.
void take_generation_defaults(const nlohmann::json& config, ServedModel& model);

/// Throws what Checkpoint, Tokenizer and ChatTemplate throw. Models may share a backend; null: one is made.
LoadedModel load(const LoadOptions& options, const ProgressFn& progress,
                 std::shared_ptr<Backend> backend = nullptr);

}  // namespace polylora
