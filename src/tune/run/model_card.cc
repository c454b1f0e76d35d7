#include "tune/run/model_card.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <iterator>

#include "base/file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// As Python prints it, which is how the hub's other cards look: 5e-05, 3.0.
std::string number(double value) {
  return json(value).dump();
}

/// "organisation/model" and no folder here.
bool is_hub_name(const std::string& name) {
  const bool plain = !name.empty() && std::isalnum(static_cast<unsigned char>(name.front())) != 0;
  return plain && std::count(name.begin(), name.end(), '/') == 1 && !path_exists(name);
}

/// A hub name as it is, of a path on this machine the last part only: a card is made to be shown around.
std::string shown_name(const std::string& model) {
  if (is_hub_name(model)) return model;
  const fs::path path = fs::path(model).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

/// Quoted unless it is plain beyond doubt; a JSON string is a YAML string.
std::string yaml(const std::string& text) {
  const bool plain = text.find('/') != std::string::npos && std::all_of(text.begin(), text.end(), [](char c) {
                       return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                              std::string_view("/._-").find(c) != std::string_view::npos;
                     });
  return plain ? text : json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

const char* schedule_name(LrSchedule schedule) {
  switch (schedule) {
    case LrSchedule::kLinear:
      return "linear";
    case LrSchedule::kCosine:
      return "cosine";
    case LrSchedule::kCosineWithRestarts:
      return "cosine_with_restarts";
    case LrSchedule::kCosineWithMinLr:
      return "cosine_with_min_lr";
    case LrSchedule::kPolynomial:
      return "polynomial";
    case LrSchedule::kConstant:
      return "constant";
    case LrSchedule::kConstantWithWarmup:
      return "constant_with_warmup";
    case LrSchedule::kInverseSqrt:
      return "inverse_sqrt";
  }
  return "";
}

std::string front_matter(const TrainConfig& config, const std::string& name) {
  const std::string base = shown_name(config.model_name_or_path);
  std::string text = fmt::format("---\nlibrary_name: peft\nlicense: other\nbase_model: {}\n", yaml(base));
  text += "tags:\n";
  if (is_hub_name(config.model_name_or_path))
    text += fmt::format("- base_model:adapter:{}\n", config.model_name_or_path);
  text += "- polylora\n- lora\n- transformers\n";
  text += fmt::format("pipeline_tag: text-generation\nmodel-index:\n- name: {}\n  results: []\n---\n\n",
                      yaml(name));
  return text;
}

std::string introduction(const TrainConfig& config, const std::string& name) {
  const std::string base = shown_name(config.model_name_or_path);
  const std::string link =
      is_hub_name(config.model_name_or_path) ? fmt::format("[{0}](https://huggingface.co/{0})", base) : base;
  std::string text = fmt::format("# {}\n\nA LoRA adapter for {}", name, link);
  if (!config.dataset.empty()) text += fmt::format(", trained on {}", fmt::join(config.dataset, ", "));
  return text + ".\n";
}

/// The last number under `key`; null without any.
json last_value(const json& log_history, const char* key) {
  json last;
  for (const json& entry : log_history) {
    if (entry.contains(key) && entry[key].is_number()) last = entry[key];
  }
  return last;
}

std::string results_on_evaluation(const json& log_history) {
  const json loss = last_value(log_history, "eval_loss");
  if (loss.is_null()) return "";
  std::string text = fmt::format("\nOn the evaluation set:\n- Loss: {:.4f}\n", loss.get<double>());
  const json accuracy = last_value(log_history, "eval_accuracy");
  if (!accuracy.is_null()) text += fmt::format("- Accuracy: {:.4f}\n", accuracy.get<double>());
  return text;
}

std::string usage(const std::string& name) {
  return fmt::format(
      "\n## Use\n\n```sh\npolylora serve BASE_MODEL --enable-lora --lora-modules {0}=PATH/TO/{0}\n```\n\n"
      "or with PEFT: `PeftModel.from_pretrained(base_model, \"PATH/TO/{0}\")`.\n",
      name);
}

std::string lora_rows(const TrainConfig& config) {
  std::string text = fmt::format("- lora_rank: {}\n- lora_alpha: {}\n- lora_dropout: {}\n- lora_target: {}\n",
                                 config.lora_rank, number(config.lora_alpha), number(config.lora_dropout),
                                 fmt::join(config.lora_target, ","));
  if (config.use_rslora) text += "- use_rslora: true\n";
  if (config.use_dora) text += "- use_dora: true\n";
  if (config.pissa_init) text += "- pissa_init: true\n";
  return text;
}

std::string schedule_rows(const TrainConfig& config) {
  std::string text = fmt::format("- lr_scheduler_type: {}\n", schedule_name(config.lr_scheduler_type));
  if (config.warmup_ratio > 0)
    text += fmt::format("- lr_scheduler_warmup_ratio: {}\n", number(config.warmup_ratio));
  if (config.warmup_steps > 0)
    text += fmt::format("- lr_scheduler_warmup_steps: {}\n", number(config.warmup_steps));
  return text + (config.max_steps > 0 ? fmt::format("- training_steps: {}\n", config.max_steps)
                                      : fmt::format("- num_epochs: {}\n", number(config.num_train_epochs)));
}

std::string hyperparameters(const TrainConfig& config) {
  const int accumulated = config.gradient_accumulation_steps;
  std::string text = "\n## Training procedure\n\n### Training hyperparameters\n\n";
  text += fmt::format("- learning_rate: {}\n- train_batch_size: {}\n- eval_batch_size: {}\n- seed: {}\n",
                      number(config.learning_rate), config.per_device_train_batch_size,
                      config.per_device_eval_batch_size, config.seed);
  if (accumulated > 1) {
    text += fmt::format("- gradient_accumulation_steps: {}\n- total_train_batch_size: {}\n", accumulated,
                        accumulated * config.per_device_train_batch_size);
  }
  text += fmt::format("- optimizer: AdamW, betas=({},{}), epsilon={}, weight_decay={}\n",
                      number(config.adam_beta1), number(config.adam_beta2), number(config.adam_epsilon),
                      number(config.weight_decay));
  return text + schedule_rows(config) + lora_rows(config);
}

/// One row per evaluation, with the training loss logged last before it.
std::string results_table(const json& log_history) {
  std::string rows, training_loss = "No log";
  for (const json& entry : log_history) {
    if (entry.contains("loss") && entry["loss"].is_number())
      training_loss = fmt::format("{:.4f}", entry["loss"].get<double>());
    if (!entry.contains("eval_loss") || !entry["eval_loss"].is_number()) continue;
    const json epoch = entry.value("epoch", json(0.0)), step = entry.value("step", json(0));
    rows += fmt::format("| {:<13} | {:<6} | {:<5} | {:<15} |\n", training_loss,
                        fmt::format("{:.4f}", epoch.get<double>()), step.get<int64_t>(),
                        fmt::format("{:.4f}", entry["eval_loss"].get<double>()));
  }
  if (rows.empty()) return "";
  return "| Training Loss | Epoch  | Step  | Validation Loss "
         "|\n|:-------------:|:------:|:-----:|:---------------:|\n" +
         rows;
}

std::string training_results(const json& log_history) {
  const json loss = last_value(log_history, "train_loss");
  const std::string table = results_table(log_history);
  if (loss.is_null() && table.empty()) return "";
  std::string text = "\n### Training results\n\n";
  if (!loss.is_null()) text += fmt::format("Mean training loss: {:.4f}\n", loss.get<double>());
  return text + (loss.is_null() || table.empty() ? "" : "\n") + table;
}

}  // namespace

std::string model_card_text(const TrainConfig& config, const json& log_history) {
  const std::string name = shown_name(fs::absolute(config.output_dir));
  return front_matter(config, name) + introduction(config, name) + results_on_evaluation(log_history) +
         usage(name) + hyperparameters(config) + training_results(log_history) +
         fmt::format("\n### Framework versions\n\n- polylora {}\n- PEFT 0.18.1 (format)\n", POLYLORA_VERSION);
}

void write_model_card(const fs::path& folder, const TrainConfig& config, const json& log_history) {
  write_file_atomic(folder / "README.md", model_card_text(config, log_history));
}

}  // namespace polylora
