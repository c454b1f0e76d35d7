#include "io/gguf_writer.h"

#include <string_view>
#include <type_traits>

#include "base/error.h"

namespace polylora {
namespace {

constexpr uint64_t kAlignment = 32;  // what readers assume without general.alignment

uint64_t aligned(uint64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

/// ggml.h's enum ggml_type.
uint32_t tensor_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 8;
    case DType::kBf16:
      return 30;
    default:
      fail(ErrorCode::kInternal, "GGUF has no {}", dtype_name(dtype));
  }
}

/// The header's bytes, field by field. Numbers are little-endian, as this machine's.
class HeaderText {
 public:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void string(std::string_view text) {
    number(static_cast<uint64_t>(text.size()));
    bytes_.append(text);
  }
  void raw(std::string_view bytes) { bytes_.append(bytes); }

  void field(const GgufField& field) {
    std::visit([this](const auto& value) { typed(value); }, field);
  }

  void pad() { bytes_.resize(aligned(bytes_.size()), '\0'); }
  const std::string& bytes() const { return bytes_; }

 private:
  template <typename T>
  static constexpr uint32_t type_of() {
    if (std::is_same_v<T, uint32_t>) return 4;
    if (std::is_same_v<T, int32_t>) return 5;
    if (std::is_same_v<T, float>) return 6;
    if (std::is_same_v<T, bool>) return 7;
    return 8;  // string
  }

  void value(bool flag) { number(static_cast<uint8_t>(flag)); }
  void value(uint32_t count) { number(count); }
  void value(int32_t count) { number(count); }
  void value(float real) { number(real); }
  void value(const std::string& text) { string(text); }

  template <typename T>
  void typed(const T& scalar) {
    number(type_of<T>());
    value(scalar);
  }
  template <typename T>
  void typed(const std::vector<T>& list) {
    number(uint32_t{9});
    number(type_of<T>());
    number(static_cast<uint64_t>(list.size()));
    for (const T& item : list) value(item);
  }

  std::string bytes_;
};

}  // namespace

std::unique_ptr<TensorWriter> open_gguf_writer(const std::filesystem::path& path,
                                               const GgufMetadata& metadata,
                                               const std::vector<TensorInfo>& tensors) {
  HeaderText header;
  header.raw("GGUF");
  header.number(uint32_t{3});
  header.number(static_cast<uint64_t>(tensors.size()));
  header.number(static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, field] : metadata) {
    header.string(key);
    header.field(field);
  }
  std::vector<uint64_t> offsets;
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors) {
    header.string(tensor.name);
    header.number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      header.number(static_cast<uint64_t>(*extent));
    header.number(tensor_type(tensor.dtype));
    header.number(offset);
    offsets.push_back(offset);
    offset = aligned(offset + tensor.bytes());
  }
  header.pad();
  for (uint64_t& place : offsets) place += header.bytes().size();
  return std::make_unique<TensorWriter>(path, header.bytes(), tensors, std::move(offsets));
}

}  // namespace polylora
