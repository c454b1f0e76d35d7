#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "io/hf_checkpoint.h"
#include "tune/data/jinja_format.h"
#include "tune/merge/export_format.h"
#include "tune/merge/ollama_modelfile.h"

namespace polylora {
namespace {

ModelText model_text(const TextAssets& assets) {
  return {
      .chat_template = assets.chat_template, .bos_token = assets.bos_token, .eos_token = assets.eos_token};
}

}  // namespace

void write_modelfile(const std::filesystem::path& folder, const std::string& template_name,
                     ExportReport& report) {
  const TextAssets assets = read_hf_text_assets(folder);
  if (assets.tokenizer_json.empty()) return;
  try {
    const auto tokenizer = Tokenizer::from_json(assets.tokenizer_json, assets.tokenizer_config_json);
    const ModelText text = model_text(assets);
    const ChatFormat format = chat_format_of(template_name, *tokenizer, text);
    write_file_atomic(folder / "Modelfile", ollama_modelfile(format, *tokenizer, text));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    report.notices.push_back(std::string("no Modelfile was written: ") + error.what());
  }
}

}  // namespace polylora
