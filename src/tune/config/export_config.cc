// `polylora export`: settings -> ExportConfig.
#include "tune/config/config_keys.h"
#include "tune/config/config_reader.h"

namespace polylora {
namespace {

using C = ExportConfig;

constexpr auto kNotice = ForeignKeys::Answer::kNotice;
constexpr auto kRefuse = ForeignKeys::Answer::kRefuse;

/// Any key of training may stand in an export file, as one YAML often serves both.
const ForeignKeys kKeyOfTraining = {"", kNotice, "", "keys of training change nothing in a merge"};

std::vector<std::pair<std::string_view, std::string>> words(const std::vector<std::string_view>& list) {
  std::vector<std::pair<std::string_view, std::string>> choices;
  for (const std::string_view word : list) choices.emplace_back(word, word);
  return choices;
}

void store_legacy_format(C& config, const Setting& setting) {
  config.export_legacy_format = as_switch(setting);
  if (!config.export_legacy_format) return;
  fail(ErrorCode::kInvalidArgument, "{}: pickled .bin files are not written; set it to false",
       setting.where());
}

bool is_known(std::string_view key) {
  return find_key(export_keys(), key) || find_foreign(foreign_export_keys(), key) ||
         find_key(train_keys(), key) || find_foreign(foreign_train_keys(), key);
}

std::vector<std::string> known_names() {
  std::vector<std::string> names;
  append_names(export_keys(), names);
  append_names(foreign_export_keys(), names);
  append_names(train_keys(), names);
  append_names(foreign_train_keys(), names);
  return names;
}

const ForeignKeys* foreign_row(const std::string& key) {
  if (const ForeignKeys* row = find_foreign(foreign_export_keys(), key)) return row;
  const ForeignKeys* row = find_foreign(foreign_train_keys(), key);
  if (row && row->answer == kNotice) return row;
  return row || find_key(train_keys(), key) ? &kKeyOfTraining : nullptr;
}

C store_all(const Settings& settings) {
  C config;
  ForeignKeyNotices foreign;
  for (const Setting& setting : settings.all()) {
    if (const auto* row = find_key(export_keys(), setting.key)) {
      if (setting.kind != Setting::Kind::kNull) row->store(config, setting);
    } else if (const ForeignKeys* other = foreign_row(setting.key)) {
      foreign.take(*other, setting);
    } else {
      config.notices.push_back(unknown_key(setting, known_names()));
    }
  }
  const std::vector<std::string> lines = foreign.lines();
  config.notices.insert(config.notices.end(), lines.begin(), lines.end());
  return config;
}

}  // namespace

const std::vector<KeyRow<C>>& export_keys() {
  static const std::vector<KeyRow<C>> rows = {
      {"model_name_or_path", stored(&C::model_name_or_path)},
      {"model_revision", stored(&C::model_revision)},
      {"adapter_name_or_path", stored(&C::adapter_name_or_path)},
      {"template", stored(&C::template_name)},
      {"export_dir", stored(&C::export_dir)},
      {"export_size", stored(&C::export_size, kNotNegative)},
      {"infer_dtype", stored(&C::infer_dtype, words({"auto", "float16", "bfloat16", "float32"}))},
      {"format", stored(&C::format, words({"safetensors", "gguf", "gguf-lora"}))},
      {"export_legacy_format", store_legacy_format},
      {"threads", stored(&C::threads, kNotNegative)},
  };
  return rows;
}

const std::vector<ForeignKeys>& foreign_export_keys() {
  static const std::vector<ForeignKeys> rows = {
      {"export_device", kRefuse, "cpu,auto", "export computes on the CPU; set cpu or auto"},
      {"export_quantization_bit", kRefuse, "",
       "adapters are merged first and the result is quantised afterwards; remove the key"},
      {"export_quantization_dataset export_quantization_nsamples export_quantization_maxlen", kNotice, "",
       "export does not quantise"},
      {"quantization_bit", kRefuse, "",
       "an adapter cannot be merged into quantised weights; remove the key to merge into the full ones"},
      {"export_hub_model_id", kNotice, "", "nothing is uploaded; the model is in export_dir"},
      {"finetuning_type", kRefuse, "lora", "only LoRA adapters are merged; set finetuning_type: lora",
       ErrorCode::kUnsupported},
      {"adapter_folder", kRefuse, "", "give the folder itself in adapter_name_or_path"},
      {"rope_scaling shift_attn mixture_of_depths use_llama_pro train_from_scratch", kRefuse, "false",
       "the merged model has the base model's architecture; remove the key"},
      {"resize_vocab add_tokens add_special_tokens new_special_tokens_config", kRefuse, "false",
       "tokens are added in training, not in a merge; remove the key"},
      {"infer_backend", kNotice, "*", ""},
  };
  return rows;
}

ExportConfig read_export_config(const std::filesystem::path& file,
                                const std::vector<std::string>& overrides) {
  const Settings given = read_settings(file, overrides, is_known);
  ExportConfig config = store_all(given);
  if (config.model_name_or_path.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: missing; name the base model, a folder or a .gguf file",
         given.where("model_name_or_path"));
  }
  if (config.export_dir.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: missing; name the folder to write to", given.where("export_dir"));
  }
  if (config.format == "gguf-lora" && config.adapter_name_or_path.size() != 1) {
    fail(ErrorCode::kInvalidArgument, "{}: gguf-lora converts one adapter, and {} are given; name one",
         given.where("format"), config.adapter_name_or_path.size());
  }
  return config;
}

}  // namespace polylora
