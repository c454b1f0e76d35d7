// A model on disk, HF folder or GGUF file, seen the HF way: HF tensor names, an HF config.json, HF tokenizer
// files. What differs between formats ends here.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/progress.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace polylora {

/// The text files beside a model; empty when absent.
struct TextAssets {
  std::string tokenizer_json;  // a GGUF vocabulary is rendered into this form
  std::string tokenizer_config_json;
  std::string chat_template;  // chat_template.jinja, or tokenizer_config's chat_template (the "default" one
                              // of a list)
  std::string bos_token;      // token strings for the chat template; empty: absent
  std::string eos_token;
  nlohmann::json generation_config;  // object; {} when absent
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  /// Opens an HF folder (config.json + safetensors, single or sharded) or a .gguf file. Maps, does not read
  /// weights. Throws with what, where and what to do.
  static std::unique_ptr<Checkpoint> open(const std::filesystem::path& path);

  virtual const std::filesystem::path& path() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const nlohmann::json& hf_config() const = 0;  // config.json; synthesised for GGUF
  virtual const TextAssets& text() const = 0;
  virtual std::string format_name() const = 0;  // "safetensors", "GGUF Q4_1"

  /// Adds the rows of the HF-named tensor to `source` (undoing GGUF's q/k permutation). 1-D tensors are one
  /// row. Throws kDataCorrupt when the tensor is missing or its shape is not rows × cols.
  virtual void append_rows(const TensorSpec& spec, WeightSource& source) const = 0;

  /// Gives the memory of weights read so far back to the system; they are read again when touched again. Any
  /// thread.
  virtual void drop_pages() const = 0;
};

/// What to hold the weights in. kNative: GGUF block formats stay as they are stored; HF weights become bf16.
enum class WeightPolicy : uint8_t { kNative, kF32, kBf16, kQ8, kQ4 };

/// Packs all weights. Linears, embedding and lm_head follow the policy; norms and biases stay f32. With q8/q4
/// of an HF model the embedding and lm_head are q8. A width that is not a multiple of 32 cannot be quantised:
/// kUnsupported.
std::unique_ptr<Model> load_model(const Checkpoint& checkpoint, Backend& backend, WeightPolicy policy,
                                  const ProgressFn& progress = {});

}  // namespace polylora
