#include "tune/train/micro_batch.h"

#include <numeric>

#include "base/rng.h"

namespace polylora {
namespace {

/// Spans and page ids first, pointers into `pages` once it no longer grows.
class PageHandout {
 public:
  explicit PageHandout(MicroBatch& out) : out_(out) {}

  void add(int row_begin, int row_count) {
    out_.batch.sequences.push_back({row_begin, row_count, 0, {}});
    next_page_ += (row_count + kKvPageSize - 1) / kKvPageSize;
  }

  void finish() {
    out_.pages.resize(static_cast<size_t>(next_page_));
    std::iota(out_.pages.begin(), out_.pages.end(), 0);
    size_t begin = 0;
    for (SequenceSpan& span : out_.batch.sequences) {
      const auto count = static_cast<size_t>((span.row_count + kKvPageSize - 1) / kKvPageSize);
      span.pages = std::span<const int32_t>(out_.pages).subspan(begin, count);
      begin += count;
    }
  }

 private:
  MicroBatch& out_;
  int next_page_ = 0;
};

void add_positions(const Example& example, std::vector<int32_t>& positions) {
  if (!example.positions.empty()) {
    positions.insert(positions.end(), example.positions.begin(), example.positions.end());
    return;
  }
  const size_t begin = positions.size();
  positions.resize(begin + example.input_ids.size());
  std::iota(positions.begin() + static_cast<std::ptrdiff_t>(begin), positions.end(), 0);
}

void add_targets(const Example& example, int first_row, int owner, MicroBatch& out) {
  for (size_t t = 0; t + 1 < example.labels.size(); ++t) {
    if (example.labels[t + 1] == kIgnoreIndex) continue;
    out.target_rows.push_back(first_row + static_cast<int>(t));
    out.targets.push_back(example.labels[t + 1]);
    out.target_owner.push_back(owner);
  }
}

}  // namespace

MicroBatch make_micro_batch(std::span<const Example* const> examples, std::span<const uint64_t> keys) {
  MicroBatch out;
  PageHandout pages(out);
  for (size_t i = 0; i < examples.size(); ++i) {
    const Example& example = *examples[i];
    const int first = out.rows(), length = static_cast<int>(example.input_ids.size());
    out.batch.token_ids.insert(out.batch.token_ids.end(), example.input_ids.begin(), example.input_ids.end());
    add_positions(example, out.batch.positions);
    add_targets(example, first, static_cast<int>(i), out);
    for (size_t s = 0; s < std::max<size_t>(1, example.segments.size()); ++s) {
      const int begin = example.segments.empty() ? 0 : example.segments[s];
      const int end = s + 1 < example.segments.size() ? example.segments[s + 1] : length;
      pages.add(first + begin, end - begin);
    }
    for (int t = 0; t < length; ++t)
      out.row_keys.push_back(random_bits(keys[i], 0, static_cast<uint64_t>(t)));
    out.row_lengths.resize(static_cast<size_t>(first + length), length);
  }
  pages.finish();
  return out;
}

int64_t count_targets(const Example& example) {
  int64_t count = 0;
  for (size_t t = 1; t < example.labels.size(); ++t) count += example.labels[t] != kIgnoreIndex;
  return count;
}

std::vector<size_t> cut_by_rows(std::span<const Example* const> examples, int max_rows) {
  std::vector<size_t> ends;
  size_t rows = 0;
  for (size_t i = 0; i < examples.size(); ++i) {
    const size_t length = examples[i]->input_ids.size();
    if (rows > 0 && rows + length > static_cast<size_t>(max_rows)) {
      ends.push_back(i);
      rows = 0;
    }
    rows += length;
  }
  if (!examples.empty()) ends.push_back(examples.size());
  return ends;
}

}  // namespace polylora
