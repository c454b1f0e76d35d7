#include "tune/data/packing.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace polylora {
namespace {

Example pack_one(std::span<const Example> examples, std::span<const size_t> members, bool neat) {
  Example row;
  for (const size_t member : members) {
    const Example& example = examples[member];
    if (neat) row.segments.push_back(static_cast<int32_t>(row.input_ids.size()));
    row.input_ids.insert(row.input_ids.end(), example.input_ids.begin(), example.input_ids.end());
    row.labels.insert(row.labels.end(), example.labels.begin(), example.labels.end());
    for (size_t i = 0; i < example.input_ids.size(); ++i) row.positions.push_back(static_cast<int32_t>(i));
  }
  return row;
}

}  // namespace

std::vector<std::vector<size_t>> greedy_knapsack(std::span<const size_t> lengths, size_t capacity) {
  std::vector<size_t> left(lengths.size());  // indices of what is not packed yet, shortest first
  std::iota(left.begin(), left.end(), size_t{0});
  std::stable_sort(left.begin(), left.end(), [&](size_t a, size_t b) { return lengths[a] < lengths[b]; });
  check(left.empty() || lengths[left.back()] <= capacity, "an example that fits no bin");
  std::vector<std::vector<size_t>> bins;
  while (!left.empty()) {
    size_t room = capacity;
    std::vector<size_t> bin;
    while (true) {
      const auto above = std::upper_bound(left.begin(), left.end(), room,
                                          [&](size_t r, size_t index) { return r < lengths[index]; });
      if (above == left.begin()) break;
      const size_t taken = *(above - 1);
      room -= lengths[taken];
      bin.push_back(taken);
      left.erase(above - 1);
    }
    bins.push_back(std::move(bin));
  }
  return bins;
}

std::vector<Example> pack_examples(std::span<const Example> examples, size_t capacity, bool neat) {
  std::vector<size_t> lengths;
  for (const Example& example : examples) lengths.push_back(example.input_ids.size());
  std::vector<Example> rows;
  for (const std::vector<size_t>& bin : greedy_knapsack(lengths, capacity))
    rows.push_back(pack_one(examples, bin, neat));
  return rows;
}

std::vector<Example> cut_blocks(std::span<const Example> examples, size_t block_len) {
  std::vector<int32_t> all;
  for (const Example& example : examples)
    all.insert(all.end(), example.input_ids.begin(), example.input_ids.end());
  std::vector<Example> blocks;
  for (size_t begin = 0; begin + block_len <= all.size(); begin += block_len) {
    Example block;
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(begin);
    block.input_ids.assign(from, from + static_cast<std::ptrdiff_t>(block_len));
    block.labels = block.input_ids;
    blocks.push_back(std::move(block));
  }
  return blocks;
}

}  // namespace polylora
