#include "ops_testing.h"

namespace polylora {
namespace {

/// One adapter's matrices on a linear of widths k -> n, and the source that points into them.
class Adapter {
 public:
  struct PairShape {
    int64_t n_begin;
    int64_t n_count;
    int64_t rank;
  };

  Adapter(int64_t k, int64_t n, const std::vector<PairShape>& shapes, DType dtype, uint64_t seed) {
    source_.k = k;
    source_.n = n;
    for (const PairShape& shape : shapes) {
      a_.emplace_back(dtype, shape.rank, k, seed++);
      b_.emplace_back(dtype, shape.n_count, shape.rank, seed++);
      source_.pairs.push_back({shape.n_begin, shape.n_count, shape.rank,
                               0.25f + 0.5f * static_cast<float>(seed % 3), a_.back().row(0),
                               b_.back().row(0), dtype});
    }
  }
  Adapter(Adapter&&) = default;

  const LoraSource& source() const { return source_; }

 private:
  std::vector<StoredRows> a_;
  std::vector<StoredRows> b_;
  LoraSource source_;
};

constexpr int64_t kK = 72;
constexpr int64_t kN = 150;

/// Ranks that share panels, straddle them, are odd, and exceed one; ranges that start anywhere and leave
/// gaps.
std::vector<Adapter> make_adapters() {
  std::vector<Adapter> adapters;
  adapters.emplace_back(kK, kN, std::vector<Adapter::PairShape>{{0, 64, 16}, {64, 43, 16}, {107, 43, 16}},
                        DType::kBf16, 1);
  adapters.emplace_back(kK, kN, std::vector<Adapter::PairShape>{{0, 64, 3}, {107, 40, 5}}, DType::kF32, 2);
  adapters.emplace_back(kK, kN, std::vector<Adapter::PairShape>{{3, 17, 1}}, DType::kF16, 3);
  adapters.emplace_back(kK, kN, std::vector<Adapter::PairShape>{{0, 150, 40}}, DType::kBf16, 4);
  return adapters;
}

class Packed {
 public:
  Packed(Backend& backend, const std::vector<Adapter>& adapters, DType dtype) {
    for (const Adapter& adapter : adapters) weights_.push_back(backend.pack_lora(adapter.source(), dtype));
  }
  const LoraWeight* operator[](size_t i) const { return weights_[i].get(); }

 private:
  std::vector<std::unique_ptr<LoraWeight>> weights_;
};

TEST(LoraDelta, MatchesRef) {
  const auto adapters = make_adapters();
  const auto ref = make_ref_backend();
  const Matrix x = Matrix::random(130, kK, 5);
  const Matrix base = Matrix::random(130, kN, 6);
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI8}) {
    const Packed expected_weights(*ref, adapters, dtype);
    for (const auto& cpu : cpu_backends(2)) {
      const Packed weights(*cpu, adapters, dtype);
      const auto groups_of = [](const Packed& packed) {
        return std::vector<LoraGroup>{{0, 1, packed[0]},
                                      {1, 2, packed[1]},
                                      {2, 4, nullptr},
                                      {4, 5, packed[2]},
                                      {5, 9, packed[3]},
                                      {9, 9, packed[3]},
                                      {10, 101, packed[0]},
                                      {101, 108, packed[1]},
                                      {108, 113, packed[0], 0.5f},
                                      {108, 113, packed[3], -1.5f},
                                      {108, 113, packed[0]},
                                      {113, 130, packed[2], 2.0f}};
      };
      Matrix expected = base;
      Matrix actual = base;
      ref->lora_delta(expected, x, groups_of(expected_weights));
      cpu->lora_delta(actual, x, groups_of(weights));
      // h may round to the neighbour of what ref has: 2^-8 of it in bf16, 1/127 of its group's largest in
      // int8.
      expect_near(expected, actual, dtype == DType::kF32 ? 1e-5 : 4e-3, cpu->description());
    }
  }
}

TEST(LoraDelta, EveryRankAndWidth) {
  const auto ref = make_ref_backend();
  for (const auto& cpu : cpu_backends(2)) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI8}) {
      for (int64_t rank = 1; rank <= 36; ++rank) {
        const int64_t n = 1 + rank * 5 % 41;
        const int64_t k = 1 + rank * 11 % 70;
        const Adapter adapter(k, n + 2, {{1, n, rank}}, DType::kF32, static_cast<uint64_t>(rank));
        const Matrix x = Matrix::random(5, k, 7);
        Matrix expected(5, n + 2);
        Matrix actual(5, n + 2);
        const auto expected_weight = ref->pack_lora(adapter.source(), dtype);
        const auto weight = cpu->pack_lora(adapter.source(), dtype);
        EXPECT_EQ(weight->total_rank(), rank);
        ref->lora_delta(expected, x, std::vector<LoraGroup>{{1, 4, expected_weight.get()}});
        cpu->lora_delta(actual, x, std::vector<LoraGroup>{{1, 4, weight.get()}});
        expect_near(expected, actual, dtype == DType::kF32 ? 1e-5 : 1e-2,
                    cpu->description() + std::to_string(rank));
      }
    }
  }
}

TEST(LoraDelta, RowsDoNotDependOnTheGroupingOrTheThreads) {
  constexpr int64_t kRows = 100;
  const auto adapters = make_adapters();
  const Matrix x = Matrix::random(kRows, kK, 8);
  const Matrix base = Matrix::random(kRows, kN, 9);
  for (const std::string_view isa : available_isas()) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI8}) {
      const auto one = make_cpu_backend(isa, 1);
      const Packed weights(*one, adapters, dtype);
      Matrix alone = base;
      for (int r = 0; r < kRows; ++r) {
        const LoraGroup group{0, 1, weights[static_cast<size_t>(r) / 25]};
        one->lora_delta(alone.rows(r, 1), x.rows(r, 1), std::span(&group, 1));
      }
      for (int threads = 1; threads <= 3; ++threads) {
        const auto backend = make_cpu_backend(isa, threads);
        for (int step = 1; step <= 25; ++step) {
          std::vector<LoraGroup> groups;
          for (int r = 0; r < kRows;) {
            const int end = std::min(r + step, (r / 25 + 1) * 25);
            groups.push_back({r, end, weights[static_cast<size_t>(r) / 25]});
            r = end;
          }
          Matrix together = base;
          backend->lora_delta(together, x, groups);
          expect_same_bits(alone, together, backend->description() + " groups of " + std::to_string(step));
        }
      }
    }
  }
}

TEST(LoraDelta, LinearAddsTheSameBits) {
  const auto adapters = make_adapters();
  const Matrix x = Matrix::random(60, kK, 10);
  const StoredRows w(DType::kBf16, kN, kK, 11);
  WeightSource source{.cols = kK, .rows = {}};
  w.append_to(source);
  for (const std::string_view isa : available_isas()) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI8}) {
      for (const int threads : {1, 3}) {
        const auto backend = make_cpu_backend(isa, threads);
        const Packed weights(*backend, adapters, dtype);
        const auto base = backend->pack_weight(source, WeightFormat::kBf16);
        // Pairs that begin inside a panel are added apart from the product; with the last adapter alone, none
        // does.
        for (const auto& groups :
             {std::vector<LoraGroup>{{0, 1, weights[0]}, {1, 2, weights[1]}, {5, 55, weights[3]}},
              std::vector<LoraGroup>{{2, 3, weights[3]}, {10, 60, weights[3]}}}) {
          Matrix apart(60, kN), together(60, kN);
          backend->linear(apart, x, *base, {});
          backend->lora_delta(apart, x, groups);
          backend->linear(together, x, *base, {}, groups);
          expect_same_bits(apart, together, backend->description());
        }
      }
    }
  }
}

}  // namespace
}  // namespace polylora
