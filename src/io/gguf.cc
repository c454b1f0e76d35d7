#include "io/gguf.h"

#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"

namespace polylora {
namespace {

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxDimensions = 4;
constexpr uint64_t kMaxExtent = uint64_t{1} << 40;
constexpr uint64_t kLeastKeyValue = 13;    // empty key, type, one byte
constexpr uint64_t kLeastTensorInfo = 32;  // empty name, rank, one extent, type, offset

enum class ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

struct TensorType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  // empty: known by name, not readable
};

// ggml.h's enum ggml_type.
constexpr TensorType kTensorTypes[] = {
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2K},
    {11, "Q3_K", DType::kQ3K},
    {12, "Q4_K", DType::kQ4K},
    {13, "Q5_K", DType::kQ5K},
    {14, "Q6_K", DType::kQ6K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", DType::kIq4Nl},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", DType::kIq4Xs},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBf16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};

/// A cursor over the file that never reads past its end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string string() {
    const auto length = number<uint64_t>();
    const auto* text = reinterpret_cast<const char*>(take(length));
    return {text, static_cast<size_t>(length)};
  }

  /// A count of things that take at least `least_bytes` each: bounded by what is left of the file.
  uint64_t count(uint64_t least_bytes) {
    const auto value = number<uint64_t>();
    if (value > (bytes_.size() - position_) / least_bytes) corrupt("a count runs past the end of the file");
    return value;
  }

  GgufValue value() { return value(static_cast<ValueType>(number<uint32_t>())); }

  size_t position() const { return position_; }
  [[noreturn]] void corrupt(std::string_view what) const {
    fail(ErrorCode::kDataCorrupt, "{}: damaged or cut-short GGUF file: {}", file_, what);
  }

 private:
  const std::byte* take(uint64_t count) {
    if (count > bytes_.size() - position_) corrupt("it ends in the middle of the header");
    const std::byte* at = bytes_.data() + position_;
    position_ += static_cast<size_t>(count);
    return at;
  }

  GgufValue value(ValueType type) {
    switch (type) {
      case ValueType::kString:
        return string();
      case ValueType::kBool:
        return number<uint8_t>() != 0;
      case ValueType::kF32:
      case ValueType::kF64:
        return floating(type);
      case ValueType::kArray:
        return array();
      default:
        return integer(type);
    }
  }

  double floating(ValueType type) {
    return type == ValueType::kF32 ? static_cast<double>(number<float>()) : number<double>();
  }

  int64_t integer(ValueType type) {
    switch (type) {
      case ValueType::kU8:
      case ValueType::kBool:
        return number<uint8_t>();
      case ValueType::kI8:
        return number<int8_t>();
      case ValueType::kU16:
        return number<uint16_t>();
      case ValueType::kI16:
        return number<int16_t>();
      case ValueType::kU32:
        return number<uint32_t>();
      case ValueType::kI32:
        return number<int32_t>();
      case ValueType::kU64:
      case ValueType::kI64:
        return number<int64_t>();
      default:
        corrupt("an unknown metadata type");
    }
  }

  GgufValue array() {
    const auto type = static_cast<ValueType>(number<uint32_t>());
    if (type == ValueType::kString) return fill<std::string>(count(8), [this] { return string(); });
    if (type == ValueType::kF32 || type == ValueType::kF64) {
      return fill<double>(count(4), [this, type] { return floating(type); });
    }
    return fill<int64_t>(count(1), [this, type] { return integer(type); });
  }

  template <typename T, typename Next>
  static std::vector<T> fill(uint64_t count, Next next) {
    std::vector<T> values;
    values.reserve(static_cast<size_t>(count));
    for (uint64_t i = 0; i < count; ++i) values.push_back(next());
    return values;
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  size_t position_ = 0;
};

struct TensorInfo {
  std::string name;
  TensorView view;      // data still empty
  uint64_t offset = 0;  // from the start of the data section
};

std::string readable_types() {
  std::string names;
  for (const TensorType& type : kTensorTypes) {
    if (type.dtype) names += fmt::format("{}{}", names.empty() ? "" : ", ", type.name);
  }
  return names;
}

DType readable_type(uint32_t id, const std::string& tensor, const std::string& file) {
  for (const TensorType& type : kTensorTypes) {
    if (type.id != id) continue;
    if (type.dtype) return *type.dtype;
    fail(ErrorCode::kUnsupported, "{}: tensor {} is stored as {}; known: {}", file, tensor, type.name,
         readable_types());
  }
  fail(ErrorCode::kUnsupported, "{}: tensor {} has the unknown GGUF type {}", file, tensor, id);
}

TensorInfo read_tensor_info(Reader& reader, const std::string& file) {
  TensorInfo info;
  info.name = reader.string();
  const auto dimensions = reader.number<uint32_t>();
  if (dimensions == 0 || dimensions > kMaxDimensions)
    reader.corrupt("tensor " + info.name + " has a strange rank");
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = reader.number<uint64_t>();
    if (extent == 0 || extent > kMaxExtent) reader.corrupt("tensor " + info.name + " has a strange shape");
    // GGUF lists the innermost first.
    info.view.shape.insert(info.view.shape.begin(), static_cast<int64_t>(extent));
  }
  info.view.dtype = readable_type(reader.number<uint32_t>(), info.name, file);
  info.offset = reader.number<uint64_t>();
  return info;
}

/// Throws unless the tensor is whole blocks and `limit` bytes hold it.
uint64_t tensor_bytes(const TensorInfo& info, const Reader& reader, uint64_t limit) {
  const int64_t inner = info.view.shape.back();
  if (inner % dtype_block_size(info.view.dtype) != 0)
    reader.corrupt("rows of " + info.name + " are no whole blocks");
  uint64_t bytes = dtype_row_bytes(info.view.dtype, inner);
  for (size_t i = 0; i + 1 < info.view.shape.size(); ++i) {
    const auto extent = static_cast<uint64_t>(info.view.shape[i]);
    if (bytes > limit / extent) reader.corrupt("tensor " + info.name + " runs past the end of the file");
    bytes *= extent;
  }
  return bytes;
}

uint64_t read_alignment(const GgufFile& gguf, const Reader& reader) {
  const int64_t* stated = gguf.find<int64_t>("general.alignment");
  const uint64_t alignment = stated == nullptr ? kDefaultAlignment : static_cast<uint64_t>(*stated);
  if (alignment == 0 || alignment % 8 != 0 || alignment > 65536)
    reader.corrupt("general.alignment is not a multiple of 8 up to 65536");
  return alignment;
}

void place_tensor(TensorInfo& info, std::span<const std::byte> data, uint64_t alignment,
                  const Reader& reader) {
  const uint64_t size = tensor_bytes(info, reader, data.size());
  if (info.offset % alignment != 0) reader.corrupt("tensor " + info.name + " is not aligned");
  if (info.offset > data.size() || size > data.size() - info.offset)
    reader.corrupt("tensor " + info.name + " runs past the end of the file");
  info.view.data = data.subspan(info.offset, size);
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) {
  const std::string name = path.string();
  const auto bytes = file_.bytes();
  Reader reader(bytes, name);
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0) {
    fail(ErrorCode::kDataCorrupt, "{} is neither a folder nor a GGUF file", name);
  }
  reader.number<uint32_t>();
  const auto version = reader.number<uint32_t>();
  if (version != 2 && version != 3)
    fail(ErrorCode::kUnsupported, "{}: GGUF version {}; known: 2 and 3", name, version);
  const uint64_t tensor_count = reader.count(kLeastTensorInfo), value_count = reader.count(kLeastKeyValue);
  for (uint64_t i = 0; i < value_count; ++i) {
    std::string key = reader.string();
    metadata_[std::move(key)] = reader.value();
  }
  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < tensor_count; ++i) infos.push_back(read_tensor_info(reader, name));

  const uint64_t alignment = read_alignment(*this, reader);
  const uint64_t start = (reader.position() + alignment - 1) / alignment * alignment;
  if (start > bytes.size()) reader.corrupt("it holds no tensor data");
  const auto data = bytes.subspan(start);
  for (TensorInfo& info : infos) {
    place_tensor(info, data, alignment, reader);
    if (!tensors_.emplace(info.name, std::move(info.view)).second)
      reader.corrupt("tensor " + info.name + " is there twice");
  }
}

void GgufFile::fail_type(const std::string& key) const {
  fail(ErrorCode::kDataCorrupt, "{}: metadata key {} has an unexpected type", file_.path().string(), key);
}

void GgufFile::fail_missing(const std::string& key) const {
  fail(ErrorCode::kDataCorrupt, "{}: metadata key {} is missing", file_.path().string(), key);
}

}  // namespace polylora
