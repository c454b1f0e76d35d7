#include "tune/merge/export.h"

#include <signal.h>

#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "tune/data/chat_format.h"
#include "tune/merge/export_format.h"
#include "tune/merge/tensor_stream.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

DType dtype_of_name(const std::string& name, const std::string& where) {
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBf16;
  fail(ErrorCode::kUnsupported, "{}: dtype '{}' is not supported; known: float16, bfloat16, float32", where,
       name);
}

/// What transformers would load the base in: config.json's word, else how the first weight is stored.
DType own_dtype(const BaseTensors& base) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto found = base.config().find(key);
    if (found != base.config().end() && found->is_string())
      return dtype_of_name(found->get<std::string>(), (base.path() / "config.json").string());
  }
  for (const BaseTensor& tensor : base.tensors()) {
    if (is_float(tensor.dtype)) return tensor.dtype;
  }
  return DType::kBf16;
}

struct Dtypes {
  DType load = DType::kF32;
  DType write = DType::kBf16;
};

Dtypes choose_dtypes(const ExportConfig& config, const BaseTensors& base) {
  const bool automatic = config.infer_dtype == "auto";
  Dtypes dtypes;
  if (!automatic) dtypes.write = dtype_of_name(config.infer_dtype, "infer_dtype");
  if (base.is_gguf()) return dtypes;  // block formats are finer than bf16: rounded once, on writing
  dtypes.load = automatic ? own_dtype(base) : dtypes.write;
  if (automatic && dtypes.load != DType::kF32) dtypes.write = dtypes.load;
  return dtypes;
}

void refuse_own_folder(const ExportConfig& config) {
  std::error_code ignored;
  const fs::path model = config.model_name_or_path;
  const fs::path folder = fs::is_directory(model, ignored) ? model : model.parent_path();
  if (fs::is_directory(model, ignored) && fs::equivalent(folder, config.export_dir, ignored)) {
    fail(ErrorCode::kInvalidArgument, "export_dir {} is the base model's own folder: name another",
         config.export_dir.string());
  }
}

std::vector<PeftAdapter> open_adapters(const ExportConfig& config, const BaseTensors& base) {
  std::vector<PeftAdapter> adapters;
  for (const std::string& path : config.adapter_name_or_path) adapters.emplace_back(path, base.head_dim());
  return adapters;
}

/// Whether "model.safetensors.tmp-PID-N" (AtomicFile's temporary name) belongs to a process that is gone.
bool is_abandoned(const std::string& name) {
  constexpr std::string_view kMark = ".tmp-";
  const size_t mark = name.find(kMark);
  if (mark == std::string::npos) return false;
  const std::string target = name.substr(0, mark);
  if (!target.ends_with(".safetensors") && !target.ends_with(".gguf")) return false;
  int pid = 0;
  const char* digits = name.data() + mark + kMark.size();
  const auto parsed = std::from_chars(digits, name.data() + name.size(), pid);
  return parsed.ec == std::errc() && pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
}

/// An export that was killed cannot tidy up; the next one into the same folder does.
void remove_abandoned_files(const fs::path& folder) {
  std::vector<fs::path> abandoned;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_abandoned(entry.path().filename().string())) abandoned.push_back(entry.path());
  }
  std::error_code ignored;
  for (const fs::path& path : abandoned) fs::remove(path, ignored);
}

/// A folder made for the export goes away with an export that fails.
class ExportFolder {
 public:
  explicit ExportFolder(const fs::path& path) : path_(path) {
    std::error_code error;
    created_ = fs::create_directories(path, error);
    if (error || !fs::is_directory(path))
      fail(ErrorCode::kIo, "cannot make export_dir {}: {}", path.string(),
           error ? error.message() : "there is a file of that name");
    remove_abandoned_files(path);
  }
  ~ExportFolder() {
    std::error_code ignored;
    if (created_) fs::remove(path_, ignored);  // does nothing unless the folder is empty
  }
  ExportFolder(const ExportFolder&) = delete;
  ExportFolder& operator=(const ExportFolder&) = delete;

 private:
  fs::path path_;
  bool created_ = false;
};

}  // namespace

void check_space(const fs::path& folder, uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= bytes) return;
  fail(ErrorCode::kResourceExhausted, "{} needs {:.2f} GB, but its disk has {:.2f} GB left", folder.string(),
       static_cast<double>(bytes) / 1e9, static_cast<double>(space.available) / 1e9);
}

ExportReport export_model(const ExportConfig& config, const ProgressFn& progress,
                          const std::atomic<bool>* cancelled) {
  refuse_own_folder(config);
  if (!config.template_name.empty())
    find_chat_format(config.template_name);  // a typing error costs no export
  const BaseTensors base(config.model_name_or_path);
  const std::vector<PeftAdapter> adapters = open_adapters(config, base);
  const MergePlan plan(base, adapters);
  const Dtypes dtypes = choose_dtypes(config, base);
  const ExportFolder folder(config.export_dir);
  const ExportJob job = {config, base, adapters, plan, dtypes.load, dtypes.write, progress, cancelled};
  if (config.format == "gguf") return export_gguf(job);
  if (config.format == "gguf-lora") return export_gguf_lora(job);
  return export_safetensors(job);
}

}  // namespace polylora
