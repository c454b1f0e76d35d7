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
                            DType::kI16, DType::kI8, DType::kU8, DType::kBool, DType::kF8E4m3}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

/// Reads an unsigned integer that a hostile header may have made negative, fractional or absurd.
uint64_t parse_count(const json& value, const std::string& where) {
  constexpr uint64_t kLimit = uint64_t{1} << 62;  // shapes are int64 from here on
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kLimit)
    fail(ErrorCode::kDataCorrupt, "{}: shape and data_offsets must be sensible non-negative integers", where);
  return value.get<uint64_t>();
}

const json& member(const json& entry, const char* key, json::value_t type, const std::string& where) {
  if (!entry.is_object() || !entry.contains(key) || entry.at(key).type() != type)
    fail(ErrorCode::kDataCorrupt, "{}: '{}' is missing or malformed", where, key);
  return entry.at(key);
}

DType parse_dtype(const json& entry, const std::string& where) {
  const std::string name = member(entry, "dtype", json::value_t::string, where);
  const auto dtype = parse_dtype_name(name);
  if (!dtype) fail(ErrorCode::kUnsupported, "{}: dtype {} is not supported", where, name);
  return *dtype;
}

TensorView parse_tensor(const json& entry, std::span<const std::byte> data, const std::string& where) {
  TensorView view{.dtype = parse_dtype(entry, where), .shape = {}, .data = {}};
  uint64_t bytes = static_cast<uint64_t>(dtype_block_bytes(view.dtype));
  for (const json& extent : member(entry, "shape", json::value_t::array, where)) {
    const uint64_t count = parse_count(extent, where);
    if (count != 0 && bytes > data.size() / count)
      fail(ErrorCode::kDataCorrupt, "{}: larger than the file (damaged or cut short?)", where);
    bytes *= count;
    view.shape.push_back(static_cast<int64_t>(count));
  }
  const json& offsets = member(entry, "data_offsets", json::value_t::array, where);
  if (offsets.size() != 2) fail(ErrorCode::kDataCorrupt, "{}: 'data_offsets' must be [begin, end]", where);
  const uint64_t begin = parse_count(offsets[0], where), end = parse_count(offsets[1], where);
  if (begin > end || end > data.size() || end - begin != bytes) {
    fail(ErrorCode::kDataCorrupt,
         "{}: data_offsets [{}, {}] do not fit the shape and the file (damaged or cut short?)", where, begin,
         end);
  }
  view.data = data.subspan(begin, end - begin);
  return view;
}

void check_no_overlap(const std::map<std::string, TensorView>& tensors, const std::string& file) {
  using Named = std::pair<const std::string, TensorView>;
  std::vector<const Named*> by_address;
  for (const Named& tensor : tensors) {
    if (!tensor.second.data.empty()) by_address.push_back(&tensor);
  }
  std::sort(by_address.begin(), by_address.end(),
            [](const Named* a, const Named* b) { return a->second.data.data() < b->second.data.data(); });
  for (size_t i = 1; i < by_address.size(); ++i) {
    const auto& [name, view] = *by_address[i - 1];
    const auto& [next_name, next] = *by_address[i];
    if (view.data.data() + view.data.size() > next.data.data())
      fail(ErrorCode::kDataCorrupt, "{}: tensors {} and {} overlap", file, name, next_name);
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
  const json header = parse_json_unique({text, header_bytes}, name);
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

}  // namespace polylora
