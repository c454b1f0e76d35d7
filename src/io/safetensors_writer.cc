#include "io/safetensors_writer.h"

#include <nlohmann/json.hpp>

#include "io/safetensors.h"

namespace polylora {
namespace {

using nlohmann::json;

/// Length and JSON text, padded with spaces so that the data begins on 8 bytes.
std::string make_header(const std::vector<TensorInfo>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors) {
    const uint64_t end = offset + tensor.bytes();
    header[tensor.name] = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace

std::unique_ptr<TensorWriter> open_safetensors_writer(const std::filesystem::path& path,
                                                      const std::vector<TensorInfo>& tensors,
                                                      const std::map<std::string, std::string>& metadata) {
  const std::string header = make_header(tensors, metadata);
  std::vector<uint64_t> offsets;
  uint64_t offset = header.size();
  for (const TensorInfo& tensor : tensors) {
    offsets.push_back(offset);
    offset += tensor.bytes();
  }
  return std::make_unique<TensorWriter>(path, header, tensors, std::move(offsets));
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) infos.push_back({name, tensor.dtype, tensor.shape});
  const auto writer = open_safetensors_writer(path, infos, metadata);
  size_t index = 0;
  for (const auto& [name, tensor] : tensors) writer->write(index++, 0, tensor.data);
  writer->commit();
}

}  // namespace polylora
