#include "io/hf_shards.h"

#include <set>
#include <string>

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// An index must not reach outside its folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && fs::path(name).filename() == name;
}

std::set<std::string> read_index(const fs::path& index_path) {
  const json index = read_json_file(index_path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail(ErrorCode::kDataCorrupt, "{}: 'weight_map' is missing", index_path.string());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get<std::string>())) {
      fail(ErrorCode::kDataCorrupt, "{}: the shard of {} must be a file name in the same folder",
           index_path.string(), tensor);
    }
    shards.insert(shard.get<std::string>());
  }
  return shards;
}

[[noreturn]] void fail_without_weights(const fs::path& folder) {
  if (path_exists(folder / "pytorch_model.bin") || path_exists(folder / "pytorch_model.bin.index.json")) {
    fail(ErrorCode::kUnsupported,
         "{} holds pickled pytorch_model.bin files, which are not read; convert them to safetensors",
         folder.string());
  }
  fail(ErrorCode::kNotFound, "{} has no model.safetensors", folder.string());
}

std::set<std::string> shard_names(const fs::path& folder) {
  if (path_exists(folder / "model.safetensors")) return {"model.safetensors"};
  const fs::path index_path = folder / "model.safetensors.index.json";
  if (!path_exists(index_path)) fail_without_weights(folder);
  return read_index(index_path);
}

}  // namespace

std::vector<std::unique_ptr<SafetensorsFile>> open_hf_shards(const fs::path& folder) {
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::set<std::string> seen;
  for (const std::string& shard : shard_names(folder)) {
    if (!path_exists(folder / shard)) {
      fail(ErrorCode::kNotFound, "{}: the shard {} is missing (download incomplete?)", folder.string(),
           shard);
    }
    files.push_back(std::make_unique<SafetensorsFile>(folder / shard));
    for (const auto& [tensor, view] : files.back()->tensors()) {
      if (!seen.insert(tensor).second)
        fail(ErrorCode::kDataCorrupt, "{}: tensor {} is in two shards", folder.string(), tensor);
    }
  }
  if (seen.empty()) fail(ErrorCode::kDataCorrupt, "{}: the checkpoint holds no tensors", folder.string());
  return files;
}

}  // namespace polylora
