#include "io/base_tensors.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "io/hf_shards.h"
#include "io/json_file.h"
#include "io/quantized_tensors.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void refuse_quantised(const Json& config, const std::string& where) {
  const std::string method = quantization_method(nlohmann::json(config));
  if (method.empty()) return;
  fail(ErrorCode::kUnsupported,
       "{}: this base is quantised ({}); adapters cannot be merged into a quantised model: name the "
       "unquantised one in model_name_or_path",
       where, method);
}

BaseTensor whole_tensor(const std::string& name, const TensorView& view) {
  BaseTensor tensor{
      .name = name, .shape = view.shape, .dtype = view.dtype, .data = view.data.data(), .scattered = {}};
  if (!view.shape.empty()) tensor.cols = view.shape.back();
  for (size_t i = 0; i + 1 < view.shape.size(); ++i) tensor.rows *= view.shape[i];
  return tensor;
}

}  // namespace

BaseTensors::BaseTensors(const fs::path& path) : path_(path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    open_folder();
  } else {
    open_gguf();
  }
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
}

void BaseTensors::open_folder() {
  const fs::path config_path = path_ / "config.json";
  if (!path_exists(config_path)) {
    const bool adapter = path_exists(path_ / "adapter_config.json");
    fail(ErrorCode::kNotFound, "{} has no config.json: it is not a Hugging Face model folder{}",
         path_.string(), adapter ? " but an adapter" : "");
  }
  config_ = parse_ordered_json(read_text_file(config_path), config_path.string());
  if (!config_.is_object()) fail(ErrorCode::kDataCorrupt, "{}: not a JSON object", config_path.string());
  refuse_quantised(config_, config_path.string());
  files_ = open_hf_shards(path_);
  for (const auto& file : files_) {
    const auto first = static_cast<std::ptrdiff_t>(tensors_.size());
    for (const auto& [name, view] : file->tensors()) tensors_.push_back(whole_tensor(name, view));
    std::stable_sort(tensors_.begin() + first, tensors_.end(),
                     [](const BaseTensor& a, const BaseTensor& b) { return a.data < b.data; });
  }
}

void BaseTensors::open_gguf() {
  gguf_ = Checkpoint::open(path_);
  config_ = Json::parse(gguf_->hf_config().dump());
  const float norm_offset = parse_model_config(gguf_->hf_config(), path_.string()).norm_offset;
  for_each_tensor(gguf_->config(), [&](const TensorSpec& spec) {
    WeightSource source;
    gguf_->append_rows(spec, source);
    BaseTensor tensor{.name = spec.name,
                      .shape = {spec.rows},
                      .dtype = source.rows.front().dtype,
                      .rows = static_cast<int64_t>(source.rows.size()),
                      .cols = source.cols,
                      .offset = is_norm(spec) ? -norm_offset : 0.0f,
                      .scattered = std::move(source.rows)};
    if (spec.cols != 0) tensor.shape.push_back(spec.cols);
    tensors_.push_back(std::move(tensor));
  });
}

const BaseTensor* BaseTensors::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

bool BaseTensors::is_tied() const {
  const auto said = config_.find("tie_word_embeddings");
  if (said != config_.end() && said->is_boolean()) return said->get<bool>();
  return find("lm_head.weight") == nullptr;
}

int64_t BaseTensors::head_dim() const {
  const auto number = [&](const char* key) {
    const auto found = config_.find(key);
    return found != config_.end() && found->is_number_integer() ? found->get<int64_t>() : int64_t{0};
  };
  if (const int64_t stated = number("head_dim"); stated > 0) return stated;
  const int64_t width = number("hidden_size"), heads = number("num_attention_heads");
  return width > 0 && heads > 0 ? width / heads : 0;
}

void BaseTensors::drop_pages() const {
  for (const auto& file : files_) file->file().drop_pages();
  if (gguf_) gguf_->drop_pages();
}

}  // namespace polylora
