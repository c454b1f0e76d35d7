// What the formats of `export` share. Internal to tune/export*.cc.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "io/base_tensors.h"
#include "io/peft_adapter.h"
#include "tune/config/train_config.h"
#include "tune/merge/export.h"
#include "tune/merge/merge.h"

namespace polylora {

/// An opened and checked job.
struct ExportJob {
  const ExportConfig& config;
  const BaseTensors& base;
  const std::vector<PeftAdapter>& adapters;
  const MergePlan& plan;
  DType load_dtype = DType::kBf16;   // see RowMerger
  DType write_dtype = DType::kBf16;  // kF32, kF16, kBf16
  const ProgressFn& progress;
  const std::atomic<bool>* cancelled = nullptr;
};

ExportReport export_safetensors(const ExportJob& job);
/// model.gguf: the merged model.
ExportReport export_gguf(const ExportJob& job);
/// adapter.gguf: the one adapter, unmerged.
ExportReport export_gguf_lora(const ExportJob& job);

/// Ollama's Modelfile for the model in `folder`, from the text files there. Nothing without a tokenizer; a
/// notice when its prompt format cannot be written as one.
void write_modelfile(const std::filesystem::path& folder, const std::string& template_name,
                     ExportReport& report);

/// Throws kResourceExhausted unless the folder's disk has room for `bytes`.
void check_space(const std::filesystem::path& folder, uint64_t bytes);

}  // namespace polylora
