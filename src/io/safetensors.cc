#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/json_file.h"

namespace polylora {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

std::optional<DType> parse_dtype_name(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16, DType::kF64, DType::kI64, DType::kI32,
                            DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

/// Reads an unsigned integer that a hostile header may have made negative, fractional or absurd.
uint64_t parse_count(const json& value, const std::string& where) {
  if (!value.is_number_unsigned())
    fail(ErrorCode::kDataCorrupt, "{}: expected a non-negative integer", where);
  return value.get<uint64_t>();
}

TensorView parse_tensor(const json& entry, std::span<const std::byte> data, const std::string& where) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    fail(ErrorCode::kDataCorrupt, "{}: expected dtype, shape and data_offsets", where);
  }
  const json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2) {
    fail(ErrorCode::kDataCorrupt, "{}: malformed dtype, shape or data_offsets", where);
  }
  const auto known = parse_dtype_name(dtype.get<std::string>());
  if (!known) fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported", where, dtype.get<std::string>());

  TensorView view{.dtype = *known, .shape = {}, .data = {}};
  uint64_t elements = 1;
  for (const json& extent : shape) {
    const uint64_t count = parse_count(extent, where);
    if (count != 0 && elements > data.size() / count + 1)
      fail(ErrorCode::kDataCorrupt, "{}: shape too large", where);
    elements *= count;
    view.shape.push_back(static_cast<int64_t>(count));
  }
  const uint64_t begin = parse_count(offsets[0], where), end = parse_count(offsets[1], where);
  const auto element_bytes = static_cast<uint64_t>(dtype_block_bytes(*known));
  if (begin > end || end > data.size() || end - begin != elements * element_bytes) {
    fail(ErrorCode::kDataCorrupt,
         "{}: data_offsets [{}, {}] do not fit the shape and the file (damaged or cut short?)", where, begin,
         end);
  }
  view.data = data.subspan(begin, end - begin);
  return view;
}

void check_no_overlap(const std::map<std::string, TensorView>& tensors, const std::string& file) {
  std::vector<std::pair<const std::byte*, const std::pair<const std::string, TensorView>*>> starts;
  for (const auto& tensor : tensors) {
    if (!tensor.second.data.empty()) starts.emplace_back(tensor.second.data.data(), &tensor);
  }
  std::sort(starts.begin(), starts.end());
  for (size_t i = 1; i < starts.size(); ++i) {
    const auto& before = *starts[i - 1].second;
    if (before.second.data.data() + before.second.data.size() > starts[i].first) {
      fail(ErrorCode::kDataCorrupt, "{}: tensors {} and {} overlap", file, before.first,
           starts[i].second->first);
    }
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string name = path.string();
  const auto bytes = file_.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes)
    fail(ErrorCode::kDataCorrupt, "{}: too short for a safetensors file", name);
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - sizeof header_bytes) {
    fail(ErrorCode::kDataCorrupt, "{}: not a safetensors file, or cut short (header of {} bytes)", name,
         header_bytes);
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + sizeof header_bytes;
  const json header = parse_json({text, header_bytes}, name);
  if (!header.is_object()) fail(ErrorCode::kDataCorrupt, "{}: the header is not a JSON object", name);
  const auto data = bytes.subspan(sizeof header_bytes + header_bytes);
  for (const auto& [key, entry] : header.items()) {
    if (key != "__metadata__") {
      tensors_.emplace(key, parse_tensor(entry, data, name + ": tensor " + key));
    } else if (entry.is_object()) {
      for (const auto& [meta, value] : entry.items())
        metadata_[meta] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  check_no_overlap(tensors_, name);
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", dtype_name(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  const auto as_text = [](const void* data, size_t size) {
    return std::string_view(static_cast<const char*>(data), size);
  };
  AtomicFile file(path);
  file.write(as_text(&length, sizeof length));
  file.write(text);
  for (const auto& [name, tensor] : tensors) file.write(as_text(tensor.data.data(), tensor.data.size()));
  file.commit();
}

}  // namespace polylora
