#include "tune/merge/tensor_stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"

namespace polylora {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 20;    // 4 MiB of f32
constexpr uint64_t kBytesPerDrop = uint64_t{64} << 20;  // read before mapped pages are given back

struct Block {
  const OutputTensor* tensor = nullptr;
  int64_t row_begin = 0;
  int64_t rows = 0;

  uint64_t row_bytes() const { return dtype_row_bytes(tensor->info.dtype, tensor->source->cols); }
};

std::vector<Block> cut_into_blocks(std::span<const OutputTensor> outputs) {
  std::vector<Block> blocks;
  for (const OutputTensor& output : outputs) {
    const int64_t rows = output.source->rows;
    const int64_t step = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, output.source->cols));
    for (int64_t begin = 0; begin < rows; begin += step)
      blocks.push_back({&output, begin, std::min(step, rows - begin)});
  }
  return blocks;
}

/// Stored bytes can be written as they are.
bool is_copy(const OutputTensor& output) {
  return output.edits.empty() && output.rotary_pairs_of == 0 && output.offset() == 0.0f &&
         output.source->scattered.empty() && output.source->dtype == output.info.dtype;
}

/// The row of the source that is written as row `row`.
int64_t source_row(const OutputTensor& output, int64_t row) {
  const int64_t size = output.rotary_pairs_of;
  if (size == 0) return row;
  const int64_t within = row % size;
  return row - within + within / 2 + within % 2 * (size / 2);
}

/// In pieces of a fixed size, which the compiler vectorises.
void narrow_to_bf16(std::span<const float> values, uint16_t* out) {
  constexpr size_t kPiece = 16;
  size_t i = 0;
  for (; i + kPiece <= values.size(); i += kPiece) {
    for (size_t j = 0; j < kPiece; ++j) out[i + j] = f32_to_bf16(values[i + j]);
  }
  for (; i < values.size(); ++i) out[i] = f32_to_bf16(values[i]);
}

void narrow(std::span<const float> values, DType dtype, std::byte* out) {
  auto* bits = reinterpret_cast<uint16_t*>(out);
  if (dtype == DType::kF32) std::memcpy(out, values.data(), values.size_bytes());
  if (dtype == DType::kBf16) narrow_to_bf16(values, bits);
  for (size_t i = 0; dtype == DType::kF16 && i < values.size(); ++i) bits[i] = f32_to_f16(values[i]);
}

void check_range(std::span<const float> values, const OutputTensor& output) {
  constexpr float kLimit = 65520.0f;  // rounds to infinity in f16
  for (const float value : values) {
    if (std::fabs(value) < kLimit) continue;
    fail(ErrorCode::kDataCorrupt, "tensor {} holds {}, which float16 cannot: use infer_dtype: bfloat16",
         output.info.name, value);
  }
}

/// A thread's share of the work and the buffers for it.
class BlockWriter {
 public:
  explicit BlockWriter(DType load_dtype)
      : backend_(make_training_backend({.name = "cpu", .threads = 1})), merger_(*backend_, load_dtype) {}

  void write(const Block& block) {
    const OutputTensor& output = *block.tensor;
    const uint64_t offset = output.at + static_cast<uint64_t>(block.row_begin) * block.row_bytes();
    const uint64_t size = static_cast<uint64_t>(block.rows) * block.row_bytes();
    if (is_copy(output)) {
      output.writer->write(output.index, offset, {output.source->row(block.row_begin), size});
      return;
    }
    const int64_t cols = output.source->cols;
    rows_.clear();
    for (int64_t r = 0; r < block.rows; ++r) rows_.push_back(source_row(output, block.row_begin + r));
    values_.resize(static_cast<size_t>(block.rows * cols));
    merger_.merge(*output.source, output.edits, rows_, Mat(values_.data(), block.rows, cols));
    if (const float shift = output.offset(); shift != 0.0f) {
      for (float& value : values_) value += shift;
    }
    if (output.info.dtype == DType::kF16) check_range(values_, output);
    bytes_.resize(size);
    narrow(values_, output.info.dtype, bytes_.data());
    output.writer->write(output.index, offset, bytes_);
  }

 private:
  std::unique_ptr<TrainingBackend> backend_;
  RowMerger merger_;
  std::vector<int64_t> rows_;
  std::vector<float> values_;
  std::vector<std::byte> bytes_;
};

/// What the threads share.
class Stream {
 public:
  Stream(const BaseTensors& base, std::span<const OutputTensor> outputs, const StreamOptions& options)
      : base_(base), options_(options), blocks_(cut_into_blocks(outputs)) {
    for (const Block& block : blocks_) total_ += static_cast<uint64_t>(block.rows) * block.row_bytes();
  }

  void run() {
    ThreadPool pool(options_.threads);
    pool.run([this](int member) { work(member); });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void work(int member) {
    try {
      BlockWriter writer(options_.load_dtype);
      for (size_t i = next_++; i < blocks_.size() && !stop_; i = next_++) {
        check_cancelled();
        writer.write(blocks_[i]);
        account(blocks_[i], member);
      }
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
  }

  void check_cancelled() const {
    if (options_.cancelled != nullptr && *options_.cancelled)
      fail(ErrorCode::kUnavailable, "interrupted: the export is incomplete and nothing of it was kept");
  }

  void account(const Block& block, int member) {
    const uint64_t size = static_cast<uint64_t>(block.rows) * block.row_bytes();
    const uint64_t before = done_.fetch_add(size);
    if (before / kBytesPerDrop != (before + size) / kBytesPerDrop) base_.drop_pages();
    if (member == 0 && options_.progress)
      options_.progress("exporting", static_cast<double>(before + size) / static_cast<double>(total_));
  }

  const BaseTensors& base_;
  const StreamOptions& options_;
  const std::vector<Block> blocks_;
  uint64_t total_ = 0;
  std::atomic<size_t> next_ = 0;
  std::atomic<uint64_t> done_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

bool is_float(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return true;
    default:
      return dtype_block_size(dtype) > 1;
  }
}

void write_tensors(const BaseTensors& base, std::span<const OutputTensor> outputs,
                   const StreamOptions& options) {
  Stream(base, outputs, options).run();
}

}  // namespace polylora
