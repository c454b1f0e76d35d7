#include "tune/run/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>

#include "base/error.h"
#include "io/adapter_writer.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "io/text_assets_writer.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kPartialPrefix = ".checkpoint-";
constexpr const char* kOptimizerFile = "optimizer.safetensors";

TrainedAdapter describe(const TrainConfig& config, const TrainableAdapter& trained) {
  const LoraSettings& settings = trained.settings();
  TrainedAdapter adapter;
  adapter.base_model_name_or_path = config.model_name_or_path;
  adapter.r = settings.rank;
  adapter.lora_alpha = settings.alpha;
  adapter.lora_dropout = config.lora_dropout;
  adapter.use_rslora = settings.use_rslora;
  adapter.use_dora = settings.use_dora;
  adapter.target_modules = trained.target_names();
  adapter.modules_to_save = settings.full_matrices;
  return adapter;
}

std::vector<int64_t> peft_shape(const Parameter& parameter) {
  if (parameter.kind == Parameter::Kind::kMagnitude) return {parameter.shape[0]};
  return {parameter.shape[0], parameter.shape[1]};
}

/// [A; A0] for A, [B, -B0] for B: B·A - B0·A0.
std::vector<float> joined(const Parameter& parameter, const float* now, const float* start) {
  const auto rows = static_cast<size_t>(parameter.shape[0]), cols = static_cast<size_t>(parameter.shape[1]);
  std::vector<float> out;
  if (parameter.kind == Parameter::Kind::kLoraA) {
    out.assign(now, now + rows * cols);
    out.insert(out.end(), start, start + rows * cols);
    return out;
  }
  for (size_t r = 0; r < rows; ++r) {
    out.insert(out.end(), now + r * cols, now + (r + 1) * cols);
    for (size_t c = 0; c < cols; ++c) out.push_back(-start[r * cols + c]);
  }
  return out;
}

std::span<const float> share(std::span<const float> all, const Parameter& parameter) {
  return all.subspan(parameter.offset, parameter.size());
}

TensorView view_of(std::span<const float> values, const Parameter& parameter) {
  return {DType::kF32, peft_shape(parameter), std::as_bytes(values)};
}

void read_into(const SafetensorsFile& file, const std::string& name, const Parameter& parameter,
               std::span<float> out) {
  const std::string where = file.file().path().string();
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end())
    fail(ErrorCode::kDataCorrupt, "{}: tensor {} is missing: it belongs to another adapter", where, name);
  if (found->second.dtype != DType::kF32 || found->second.shape != peft_shape(parameter))
    fail(ErrorCode::kDataCorrupt, "{}: tensor {} does not fit lora_rank or the model", where, name);
  std::memcpy(out.data() + parameter.offset, found->second.data.data(), found->second.data.size());
}

std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  return error == std::errc() && stop == end ? std::optional(step) : std::nullopt;
}

/// Every failure of the file system names the folder.
template <typename Body>
void on_folder(const fs::path& folder, Body body) {
  try {
    body();
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::kIo, "{}: {}", folder.string(), error.code().message());
  }
}

}  // namespace

AdapterSaver::AdapterSaver(const TrainConfig& config, const Checkpoint& base, std::string base_fingerprint,
                           const TrainableAdapter& trained, std::vector<float> pissa_start)
    : config_(config),
      base_(base),
      base_fingerprint_(std::move(base_fingerprint)),
      trained_(trained),
      pissa_start_(std::move(pissa_start)) {}

void AdapterSaver::save(const fs::path& folder) const {
  TrainedAdapter adapter = describe(config_, trained_);
  adapter.base_fingerprint = base_fingerprint_;
  const std::span<const float> values = trained_.values();
  std::vector<std::vector<float>> converted;  // owns what PiSSA's conversion makes
  converted.reserve(trained_.parameters().size());
  if (converts()) {
    adapter.r *= 2;
    adapter.lora_alpha *= adapter.use_rslora ? std::sqrt(2.0) : 2.0;
  }
  for (const Parameter& parameter : trained_.parameters()) {
    const float* now = share(values, parameter).data();
    const bool pair = parameter.kind == Parameter::Kind::kLoraA || parameter.kind == Parameter::Kind::kLoraB;
    if (!converts() || !pair) {
      adapter.tensors[parameter.name] = {now, peft_shape(parameter)};
      continue;
    }
    converted.push_back(joined(parameter, now, share(pissa_start_, parameter).data()));
    std::vector<int64_t> shape = peft_shape(parameter);
    shape[parameter.kind == Parameter::Kind::kLoraA ? 0 : 1] *= 2;
    adapter.tensors[parameter.name] = {converted.back().data(), shape};
  }
  write_adapter(folder, adapter);
  write_tokenizer_files(folder, base_);
}

fs::path CheckpointFolders::path(int64_t step) const {
  return output_dir_ / fmt::format("{}{}", kPrefix, step);
}

std::vector<int64_t> CheckpointFolders::steps() const {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(output_dir_, ignored)) {
    if (const auto step = step_of(entry.path()); step && entry.is_directory()) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<fs::path> CheckpointFolders::last() const {
  const std::vector<int64_t> all = steps();
  return all.empty() ? std::nullopt : std::optional(path(all.back()));
}

void CheckpointFolders::write(int64_t step, const std::function<void(const fs::path&)>& fill) const {
  const fs::path target = path(step),
                 partial = output_dir_ / fmt::format("{}{}.partial", kPartialPrefix, step);
  on_folder(target, [&] {
    fs::remove_all(partial);
    fs::create_directories(partial);
    fill(partial);
    // A folder cannot be renamed onto one that is not empty; in between, the step has no checkpoint.
    fs::remove_all(target);
    fs::rename(partial, target);
  });
}

void CheckpointFolders::rotate(int limit, const std::string& keep) const {
  if (limit <= 0) return;
  const std::vector<int64_t> all = steps();
  auto left = static_cast<int>(all.size());
  for (const int64_t step : all) {
    if (left <= limit) return;
    const fs::path folder = path(step);
    if (step == all.back() || folder.filename() == fs::path(keep).filename()) continue;
    // Renamed first, so that no reader finds half a checkpoint.
    on_folder(folder, [&] {
      const fs::path doomed = output_dir_ / fmt::format("{}{}.removed", kPartialPrefix, step);
      fs::remove_all(doomed);
      fs::rename(folder, doomed);
      fs::remove_all(doomed);
    });
    --left;
  }
}

void CheckpointFolders::remove_partial() const {
  std::vector<fs::path> leftovers;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(output_dir_, ignored)) {
    if (entry.path().filename().string().starts_with(kPartialPrefix)) leftovers.push_back(entry.path());
  }
  for (const fs::path& folder : leftovers) on_folder(folder, [&] { fs::remove_all(folder); });
}

void write_optimizer_state(const fs::path& folder, const TrainableAdapter& trained, bool with_values) {
  std::map<std::string, TensorView> tensors;
  for (const Parameter& parameter : trained.parameters()) {
    tensors["exp_avg." + parameter.name] = view_of(share(trained.first_moments(), parameter), parameter);
    tensors["exp_avg_sq." + parameter.name] = view_of(share(trained.second_moments(), parameter), parameter);
    if (with_values)
      tensors["value." + parameter.name] = view_of(share(trained.values(), parameter), parameter);
  }
  write_safetensors(folder / kOptimizerFile, tensors);
}

void read_training_state(const fs::path& checkpoint, const TrainableAdapter& trained) {
  const fs::path path = checkpoint / kOptimizerFile;
  if (!path_exists(path)) {
    fail(ErrorCode::kNotFound,
         "{} has no {}: it was saved with save_only_model (or is no checkpoint) and cannot be resumed; start "
         "from it with adapter_name_or_path instead",
         checkpoint.string(), kOptimizerFile);
  }
  const SafetensorsFile file(path);
  const bool has_values = file.tensors().contains("value." + trained.parameters().front().name);
  for (const Parameter& parameter : trained.parameters()) {
    read_into(file, "exp_avg." + parameter.name, parameter, trained.first_moments());
    read_into(file, "exp_avg_sq." + parameter.name, parameter, trained.second_moments());
    if (has_values) read_into(file, "value." + parameter.name, parameter, trained.values());
  }
  if (!has_values) read_adapter_values(checkpoint, trained);
}

void read_adapter_values(const fs::path& folder, const TrainableAdapter& trained) {
  const fs::path path = folder / "adapter_model.safetensors";
  if (!path_exists(path)) fail(ErrorCode::kNotFound, "No adapter found for {}", folder.string());
  const SafetensorsFile file(path);
  for (const Parameter& parameter : trained.parameters())
    read_into(file, parameter.name, parameter, trained.values());
}

}  // namespace polylora
