// Several datasets as one sequence, and a part of it held out for evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace polylora {

struct DatasetPosition {
  size_t dataset, record;
};

/// The order in which records of datasets of these sizes follow each other. `strategy`: concat;
/// interleave_under (stops when the first dataset has run out), interleave_over (when the last has; shorter
/// ones start again) or interleave_once (the same, but nothing comes twice). Interleaving takes turns, or
/// draws with `probabilities` (one per dataset, all above 0) from `seed`. Empty datasets count as run out and
/// are left out.
std::vector<DatasetPosition> mix_datasets(const std::vector<size_t>& sizes, const std::string& strategy,
                                          const std::vector<double>& probabilities, int64_t seed);

/// Which of `count` records are held out: val_size >= 1 is a number of them, below 1 a share, rounded up.
/// Drawn with `seed`; ascending. Throws kInvalidArgument when nothing is left to train on.
std::vector<size_t> held_out(size_t count, double val_size, int64_t seed);

}  // namespace polylora
