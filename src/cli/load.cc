#include "cli/load.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "cli/console.h"
#include "hub/model_sources.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::unique_ptr<Tokenizer> load_tokenizer(const LoadOptions& options, const TextAssets& assets) {
  if (options.skip_tokenizer) return nullptr;
  if (!options.tokenizer.empty()) return open_tokenizer(options.tokenizer);
  if (assets.tokenizer_json.empty()) {
    fail(ErrorCode::kNotFound,
         "{} has no tokenizer.json; name one with --tokenizer, or serve token ids only with "
         "--skip-tokenizer-init",
         options.model);
  }
  return Tokenizer::from_json(assets.tokenizer_json, assets.tokenizer_config_json);
}

/// A file's content, or the text itself when it can only be Jinja.
std::string chat_template_text(const std::string& value) {
  std::error_code ignored;  // a template may be too long to be a path
  if (fs::is_regular_file(value, ignored)) return read_text_file(value);
  if (value.find_first_of("{}\n") != std::string::npos) return value;
  fail(ErrorCode::kInvalidArgument,
       "--chat-template: there is no file '{}', and it is not a Jinja template either", value);
}

std::optional<ChatTemplate> load_chat_template(const LoadOptions& options, const TextAssets& assets) {
  const std::string text =
      options.chat_template.empty() ? assets.chat_template : chat_template_text(options.chat_template);
  if (text.empty() || options.skip_tokenizer) return std::nullopt;
  return ChatTemplate(text);
}

json load_generation_config(const std::string& where, const TextAssets& assets) {
  if (where == "auto") return assets.generation_config;
  if (where == "vllm") return json::object();
  const fs::path file =
      fs::is_directory(where) ? fs::path(where) / "generation_config.json" : fs::path(where);
  json config = json::parse(read_text_file(file), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    fail(ErrorCode::kDataCorrupt, "--generation-config: {} is not a JSON object", file.string());
  }
  return config;
}

template <typename Value>
void take_number(const json& config, const char* key, std::optional<Value>& value) {
  const auto found = config.find(key);
  if (found != config.end() && found->is_number()) value = found->template get<Value>();
}

ServedModel text_side(const LoadOptions& options, const TextAssets& assets) {
  ServedModel text;
  text.root = options.model;
  text.bos_token = assets.bos_token;
  text.eos_token = assets.eos_token;
  take_generation_defaults(load_generation_config(options.generation_config, assets), text);
  return text;
}

}  // namespace

void take_generation_defaults(const json& config, ServedModel& model) {
  take_number(config, "temperature", model.default_temperature);
  take_number(config, "top_p", model.default_top_p);
  take_number(config, "top_k", model.default_top_k);
  take_number(config, "min_p", model.default_min_p);
  take_number(config, "repetition_penalty", model.default_repetition_penalty);
  take_number(config, "max_new_tokens", model.default_max_tokens);
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& path) {
  if (path.extension() == ".gguf") {
    const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::open(path);
    return Tokenizer::from_json(checkpoint->text().tokenizer_json, checkpoint->text().tokenizer_config_json);
  }
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const fs::path file = fs::is_directory(path) ? path / "tokenizer.json" : path;
  const fs::path config = folder / "tokenizer_config.json";
  return Tokenizer::from_json(read_text_file(file), fs::exists(config) ? read_text_file(config) : "");
}

LoadedModel load(const LoadOptions& options, const ProgressFn& progress, std::shared_ptr<Backend> backend) {
  const ModelSources sources({.progress = progress, .say = print_line});
  const std::unique_ptr<Checkpoint> checkpoint =
      Checkpoint::open(sources.find_model(options.model, options.revision));
  const TextAssets& assets = checkpoint->text();
  LoadedModel loaded;
  // The small parts first: what is wrong with them should not cost a load of the weights.
  loaded.text = text_side(options, assets);
  loaded.tokenizer = load_tokenizer(options, assets);
  loaded.chat_template = load_chat_template(options, assets);
  loaded.format = checkpoint->format_name();
  loaded.backend = backend != nullptr ? std::move(backend) : make_backend(options.backend);
  loaded.model = load_model(*checkpoint, *loaded.backend, options.policy, progress);
  return loaded;
}

}  // namespace polylora
