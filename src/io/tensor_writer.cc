#include "io/tensor_writer.h"

#include <utility>

#include "base/error.h"

namespace polylora {

int64_t TensorInfo::elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

uint64_t TensorInfo::bytes() const {
  return dtype_row_bytes(dtype, elements());
}

TensorWriter::TensorWriter(const std::filesystem::path& path, std::string_view header,
                           const std::vector<TensorInfo>& tensors, std::vector<uint64_t> offsets)
    : file_(path), offsets_(std::move(offsets)) {
  check(offsets_.size() == tensors.size(), "one offset per tensor");
  file_.write(header);
  for (const TensorInfo& tensor : tensors) expected_ += tensor.bytes();
}

void TensorWriter::write(size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
  file_.write_at(offsets_.at(tensor) + offset, bytes);
  written_ += bytes.size();
}

void TensorWriter::commit() {
  check(written_ == expected_, "every byte of every tensor is written before commit");
  file_.commit();
}

}  // namespace polylora
