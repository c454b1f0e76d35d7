#include <numeric>

#include "ops_testing.h"

namespace polylora {
namespace {

struct Shape {
  int heads;
  int kv_heads;
  int head_dim;
};

constexpr Shape kShapes[] = {{3, 3, 16}, {9, 3, 64}, {4, 1, 80}, {4, 1, 128}, {2, 2, 12}, {3, 1, 6}};

/// A sequence's place in the batch.
struct Place {
  int row_begin;
  int row_count;
};

/// Everything that attention_backward reads and writes, for a whole batch.
struct Batch {
  Batch(const Shape& shape, int64_t rows, uint64_t seed)
      : q(Matrix::random(rows, shape.heads * shape.head_dim, seed)),
        k(Matrix::random(rows, shape.kv_heads * shape.head_dim, seed + 1)),
        v(Matrix::random(rows, shape.kv_heads * shape.head_dim, seed + 2)),
        d_o(Matrix::random(rows, shape.heads * shape.head_dim, seed + 3)),
        o(rows, shape.heads * shape.head_dim),
        lse(rows, shape.heads),
        dq(rows, shape.heads * shape.head_dim, kUntouched),
        dk(rows, shape.kv_heads * shape.head_dim, kUntouched),
        dv(rows, shape.kv_heads * shape.head_dim, kUntouched) {}

  static constexpr float kUntouched = -77.0f;
  Matrix q, k, v, d_o;
  Matrix o, lse;
  Matrix dq, dk, dv;
};

/// o and lse of the batch's sequences, through a KV cache.
void attend(Backend& backend, const Shape& shape, Batch& batch, const std::vector<Place>& places,
            const AttentionParams& params, DType dtype) {
  const int pages_each = 20;
  const auto sequences = static_cast<int>(places.size());
  const auto cache =
      backend.make_kv_cache({1, pages_each * sequences, shape.kv_heads, shape.head_dim, dtype});
  std::vector<int32_t> pages(static_cast<size_t>(pages_each * sequences));
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<SequenceSpan> spans;
  for (const Place& place : places) {
    const std::span<const int32_t> own(pages.data() + pages_each * static_cast<int>(spans.size()),
                                       pages_each);
    spans.push_back({place.row_begin, place.row_count, 0, own});
  }
  backend.kv_write(*cache, 0, batch.k, batch.v, spans);
  backend.attention(batch.o, batch.lse, batch.q, *cache, 0, spans, params);
}

void backward(TrainingBackend& backend, const Shape& shape, Batch& batch, const std::vector<Place>& places,
              const AttentionParams& params, DType dtype) {
  std::vector<SequenceSpan> spans;
  for (const Place& place : places) spans.push_back({place.row_begin, place.row_count, 0, {}});
  backend.attention_backward(batch.dq, batch.dk, batch.dv, batch.d_o, batch.o, batch.lse, batch.q, batch.k,
                             batch.v, shape.head_dim, spans, params, dtype);
}

void expect_same_gradients(const Batch& expected, const Batch& actual, const std::string& what) {
  expect_same_bits(expected.dq, actual.dq, what + " dq");
  expect_same_bits(expected.dk, actual.dk, what + " dk");
  expect_same_bits(expected.dv, actual.dv, what + " dv");
}

std::vector<AttentionParams> parameter_sets(int head_dim) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return {{scale, 0, 0.0f}, {scale, 2, 0.0f}, {scale, 40, 0.0f}, {scale, 64, 3.0f}, {scale, 0, 4.0f}};
}

std::string describe(const Backend& backend, const Shape& shape, const AttentionParams& params) {
  return backend.description() + " " + std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) +
         " heads of " + std::to_string(shape.head_dim) + ", window " + std::to_string(params.window) +
         ", softcap " + std::to_string(params.softcap);
}

void expect_conformance(const Shape& shape, const std::vector<Place>& places, int64_t rows,
                        const AttentionParams& params, DType dtype) {
  const auto ref = make_ref_backend();
  Batch expected(shape, rows, 500);
  attend(*ref, shape, expected, places, params, dtype);
  backward(*ref, shape, expected, places, params, dtype);
  for (const auto& cpu : cpu_backends(2)) {
    Batch actual(shape, rows, 500);
    actual.o = expected.o;
    actual.lse = expected.lse;
    backward(*cpu, shape, actual, places, params, dtype);
    const std::string what = describe(*cpu, shape, params) + ", " + std::to_string(rows) + " rows";
    const double tolerance = dtype == DType::kF32 ? 1e-5 : 6e-3;
    expect_near(expected.dq, actual.dq, tolerance, what + " dq");
    expect_near(expected.dk, actual.dk, tolerance, what + " dk");
    expect_near(expected.dv, actual.dv, tolerance, what + " dv");
  }
}

TEST(AttentionBackward, MatchesRefInABatchWithGaps) {
  const std::vector<Place> places = {{2, 33}, {36, 1}, {40, 17}, {57, 66}, {130, 150}};
  for (const Shape& shape : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      for (const AttentionParams& params : parameter_sets(shape.head_dim))
        expect_conformance(shape, places, 283, params, dtype);
    }
  }
}

TEST(AttentionBackward, MatchesRefAtEveryLength) {
  constexpr Shape kShape{2, 1, 16};
  for (int tokens = 1; tokens <= 150; ++tokens) {
    for (const DType dtype : {DType::kF32, DType::kBf16})
      expect_conformance(kShape, {{0, tokens}}, tokens, {.scale = 0.25f, .window = tokens % 3 * 25}, dtype);
  }
}

TEST(AttentionBackward, MatchesRefWhereASequenceIsCutIntoRuns) {
  for (const int window : {0, 70, 200}) {
    for (const DType dtype : {DType::kF32, DType::kBf16})
      expect_conformance({2, 1, 16}, {{1, 300}}, 302, {.scale = 0.25f, .window = window}, dtype);
  }
}

TEST(AttentionBackward, FollowsTheForwardOfTheSameBackend) {
  constexpr Shape kShape{9, 3, 64};
  const std::vector<Place> places = {{0, 100}, {100, 7}};
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const AttentionParams& params : parameter_sets(kShape.head_dim)) {
      const auto ref = make_ref_backend();
      Batch expected(kShape, 107, 700);
      attend(*ref, kShape, expected, places, params, dtype);
      backward(*ref, kShape, expected, places, params, dtype);
      for (const auto& cpu : cpu_backends(2)) {
        Batch actual(kShape, 107, 700);
        attend(*cpu, kShape, actual, places, params, dtype);
        backward(*cpu, kShape, actual, places, params, dtype);
        const std::string what = describe(*cpu, kShape, params);
        expect_near(expected.lse, actual.lse, dtype == DType::kF32 ? 1e-6 : 1e-3, what + " lse");
        expect_near(expected.dq, actual.dq, dtype == DType::kF32 ? 1e-5 : 1e-2, what + " dq");
        expect_near(expected.dk, actual.dk, dtype == DType::kF32 ? 1e-5 : 1e-2, what + " dk");
        expect_near(expected.dv, actual.dv, dtype == DType::kF32 ? 1e-5 : 1e-2, what + " dv");
      }
    }
  }
}

TEST(AttentionBackward, LeavesRowsOutsideTheSpansAlone) {
  constexpr Shape kShape{4, 2, 12};
  for (const auto& cpu : cpu_backends(2)) {
    Batch batch(kShape, 40, 800);
    const std::vector<Place> places = {{3, 17}, {25, 14}};
    attend(*cpu, kShape, batch, places, {.scale = 0.3f}, DType::kBf16);
    backward(*cpu, kShape, batch, places, {.scale = 0.3f}, DType::kBf16);
    for (const int row : {0, 1, 2, 20, 24, 39}) {
      for (const Matrix* gradient : {&batch.dq, &batch.dk, &batch.dv}) {
        for (const float value : std::span(&gradient->at(row, 0), size_t{2 * 12}))
          EXPECT_EQ(Batch::kUntouched, value) << cpu->description() << " row " << row;
      }
    }
  }
}

TEST(AttentionBackward, ThreadsDoNotChangeABit) {
  const std::vector<Place> places = {{0, 300}, {300, 50}, {350, 1}};
  constexpr Shape kShape{9, 3, 64};
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const int window : {0, 100}) {
      const AttentionParams params{.scale = 0.125f, .window = window};
      for (const std::string_view isa : available_isas()) {
        const auto one = make_cpu_backend(isa, 1);
        Batch expected(kShape, 351, 900);
        attend(*one, kShape, expected, places, params, dtype);
        backward(*one, kShape, expected, places, params, dtype);
        for (const int threads : {2, 3, 7}) {
          const auto many = make_cpu_backend(isa, threads);
          Batch actual(kShape, 351, 900);
          attend(*many, kShape, actual, places, params, dtype);
          backward(*many, kShape, actual, places, params, dtype);
          expect_same_bits(expected.lse, actual.lse, describe(*many, kShape, params) + " lse");
          expect_same_gradients(expected, actual, describe(*many, kShape, params));
        }
      }
    }
  }
}

TEST(AttentionBackward, ASequenceDoesNotDependOnItsNeighbours) {
  constexpr Shape kShape{4, 2, 32};
  constexpr AttentionParams kParams{.scale = 0.2f};
  const std::vector<Place> places = {{5, 90}, {95, 200}, {295, 3}, {300, 64}};
  for (const auto& cpu : cpu_backends(2)) {
    Batch together(kShape, 364, 1000);
    attend(*cpu, kShape, together, places, kParams, DType::kBf16);
    backward(*cpu, kShape, together, places, kParams, DType::kBf16);
    for (const Place& place : places) {
      Batch alone(kShape, 364, 1000);
      // The neighbours' rows are poison where the sequence is alone.
      for (Matrix* m : {&alone.q, &alone.k, &alone.v, &alone.d_o}) {
        for (int64_t row = 0; row < 364; ++row) {
          const bool own = row >= place.row_begin && row < place.row_begin + place.row_count;
          if (!own) std::fill_n(&m->at(row, 0), m->view().cols, std::nanf(""));
        }
      }
      attend(*cpu, kShape, alone, {place}, kParams, DType::kBf16);
      backward(*cpu, kShape, alone, {place}, kParams, DType::kBf16);
      const std::string what = cpu->description() + ", sequence of " + std::to_string(place.row_count);
      for (const auto& [a, b] : {std::pair{&together.dq, &alone.dq}, std::pair{&together.dk, &alone.dk},
                                 std::pair{&together.dv, &alone.dv}, std::pair{&together.lse, &alone.lse}}) {
        expect_same_bits(a->rows(place.row_begin, place.row_count), b->rows(place.row_begin, place.row_count),
                         what);
      }
    }
  }
}

}  // namespace
}  // namespace polylora
