#include <limits>
#include <numeric>

#include "ops_testing.h"

namespace polylora {
namespace {

struct Shape {
  int heads;
  int kv_heads;
  int head_dim;
};

constexpr Shape kShapes[] = {{9, 3, 64}, {4, 1, 16}, {2, 2, 12}, {8, 2, 32}, {4, 2, 128},
                             {4, 1, 96}, {3, 1, 6},  {6, 2, 80}, {50, 1, 16}};

constexpr DType kDtypes[] = {DType::kF32, DType::kBf16, DType::kI8};

/// What a kernel rounds that the reference does not: probabilities, to bf16 or to 15 bits.
double tolerance(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : dtype == DType::kBf16 ? 4e-3 : 3e-4;
}

/// One sequence's q, k, v, and the pages it lives in.
struct Sequence {
  Sequence(const Shape& shape, int tokens, uint64_t seed)
      : q(Matrix::random(tokens, shape.heads * shape.head_dim, seed)),
        k(Matrix::random(tokens, shape.kv_heads * shape.head_dim, seed + 1)),
        v(Matrix::random(tokens, shape.kv_heads * shape.head_dim, seed + 2)) {}

  Matrix q;
  Matrix k;
  Matrix v;
};

std::vector<int32_t> shuffled_pages(int count, int stride) {
  std::vector<int32_t> pages(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) pages[static_cast<size_t>(i)] = (i * stride + 3) % count;
  return pages;
}

/// Runs tokens [0, total) through a fresh cache in chunks; chunk(i) is the length of the i-th.
template <typename Chunk>
Matrix attend_in_chunks(Backend& backend, const Shape& shape, DType dtype, const Sequence& s, int total,
                        const AttentionParams& params, Chunk chunk) {
  const int page_count = (total + kKvPageSize - 1) / kKvPageSize;
  const auto cache = backend.make_kv_cache({2, page_count, shape.kv_heads, shape.head_dim, dtype});
  const auto pages = shuffled_pages(page_count, 1);
  Matrix o(total, shape.heads * shape.head_dim);
  for (int begin = 0, i = 0; begin < total; ++i) {
    const int count = std::min(chunk(i), total - begin);
    const SequenceSpan span{0, count, begin, pages};
    backend.kv_write(*cache, 1, s.k.rows(begin, count), s.v.rows(begin, count), std::span(&span, 1));
    backend.attention(o.rows(begin, count), Mat(), s.q.rows(begin, count), *cache, 1, std::span(&span, 1),
                      params);
    begin += count;
  }
  return o;
}

std::vector<AttentionParams> parameter_sets(int head_dim) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return {{scale, 0, 0.0f}, {scale, 5, 0.0f}, {scale, 16, 0.0f}, {scale, 33, 0.0f}, {scale, 0, 4.0f}};
}

TEST(Attention, MatchesRef) {
  constexpr int kTokens = 140;
  const auto ref = make_ref_backend();
  for (const Shape& shape : kShapes) {
    const Sequence s(shape, kTokens, 100);
    for (const DType dtype : kDtypes) {
      for (const AttentionParams& params : parameter_sets(shape.head_dim)) {
        const auto all = [](int) { return kTokens; };
        const Matrix expected = attend_in_chunks(*ref, shape, dtype, s, kTokens, params, all);
        for (const auto& cpu : cpu_backends(2)) {
          const Matrix actual = attend_in_chunks(*cpu, shape, dtype, s, kTokens, params, all);
          expect_near(expected, actual, tolerance(dtype),
                      cpu->description() + " " + std::string(dtype_name(dtype)) + " head_dim " +
                          std::to_string(shape.head_dim));
        }
      }
    }
  }
}

TEST(Attention, RowsDoNotDependOnTheChunksOrTheThreads) {
  constexpr int kTokens = 150;
  for (const Shape& shape : kShapes) {
    const Sequence s(shape, kTokens, 200);
    for (const DType dtype : kDtypes) {
      for (const AttentionParams& params : parameter_sets(shape.head_dim)) {
        for (const std::string_view isa : available_isas()) {
          const auto one = make_cpu_backend(isa, 1);
          const auto two = make_cpu_backend(isa, 2);
          const Matrix whole =
              attend_in_chunks(*one, shape, dtype, s, kTokens, params, [](int) { return kTokens; });
          const std::string what = one->description() + " head_dim " + std::to_string(shape.head_dim) +
                                   " window " + std::to_string(params.window);
          expect_same_bits(
              whole, attend_in_chunks(*two, shape, dtype, s, kTokens, params, [](int) { return 1; }), what);
          for (uint64_t seed = 0; seed < 3; ++seed) {
            const auto random_chunk = [&](int i) {
              return 1 + static_cast<int>(random_bits(seed, 0, static_cast<uint64_t>(i)) % 70);
            };
            expect_same_bits(whole, attend_in_chunks(*two, shape, dtype, s, kTokens, params, random_chunk),
                             what);
          }
        }
      }
    }
  }
}

/// A batch of several sequences, some with tokens in the cache, gives what each gives alone.
void expect_mixed_equals_alone(Backend& cpu, DType dtype) {
  constexpr Shape kShape{9, 3, 64};
  constexpr AttentionParams kParams{.scale = 0.125f};
  const std::vector<int> history = {0, 37, 5, 90};  // tokens already in the cache
  const std::vector<int> rows = {20, 1, 3, 1};      // tokens of this batch
  const auto cache = cpu.make_kv_cache({1, 32, kShape.kv_heads, kShape.head_dim, dtype});
  const auto pages = shuffled_pages(32, 5);
  Matrix q(25, kShape.heads * kShape.head_dim);
  Matrix k(25, kShape.kv_heads * kShape.head_dim);
  Matrix v(25, kShape.kv_heads * kShape.head_dim);
  Matrix expected(25, kShape.heads * kShape.head_dim);
  std::vector<SequenceSpan> spans;
  int row = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int total = history[i] + rows[i];
    const Sequence s(kShape, total, 300 + i);
    const std::span<const int32_t> own_pages(pages.data() + 8 * i, 8);
    if (history[i] > 0) {
      const SequenceSpan past{0, history[i], 0, own_pages};
      cpu.kv_write(*cache, 0, s.k.rows(0, history[i]), s.v.rows(0, history[i]), std::span(&past, 1));
    }
    const Matrix alone = attend_in_chunks(cpu, kShape, dtype, s, total, kParams, [](int) { return 1; });
    for (int t = 0; t < rows[i]; ++t) {
      std::copy_n(&s.q.at(history[i] + t, 0), 9 * 64, &q.at(row + t, 0));
      std::copy_n(&s.k.at(history[i] + t, 0), 3 * 64, &k.at(row + t, 0));
      std::copy_n(&s.v.at(history[i] + t, 0), 3 * 64, &v.at(row + t, 0));
      std::copy_n(&alone.at(history[i] + t, 0), 9 * 64, &expected.at(row + t, 0));
    }
    spans.push_back({row, rows[i], history[i], own_pages});
    row += rows[i];
  }
  Matrix o(25, kShape.heads * kShape.head_dim);
  cpu.kv_write(*cache, 0, k, v, spans);
  cpu.attention(o, Mat(), q, *cache, 0, spans, kParams);
  expect_same_bits(expected, o, cpu.description());
}

TEST(Attention, MixedBatchEqualsSequencesAlone) {
  for (const auto& cpu : cpu_backends(3)) {
    for (const DType dtype : kDtypes) expect_mixed_equals_alone(*cpu, dtype);
  }
}

/// Decoding sequences whose first pages are the same ones, as with a cached prompt: each gets what it gets
/// alone, bit for bit, whoever else reads those pages with it.
void expect_shared_pages_change_nothing(Backend& cpu, const Shape& shape, DType dtype) {
  const AttentionParams params{.scale = 0.2f};
  struct Member {
    int shared;  // leading pages of the common prompt
    int total;   // tokens
  };
  const std::vector<Member> members = {{9, 145}, {4, 70},  {9, 300}, {0, 131}, {9, 146}, {8, 129},
                                       {4, 65},  {9, 160}, {0, 1},   {2, 40},  {9, 152}, {9, 209}};
  const Sequence prompt(shape, 9 * kKvPageSize, 600);
  const auto cache = cpu.make_kv_cache({1, 256, shape.kv_heads, shape.head_dim, dtype});
  const auto pages = shuffled_pages(256, 7);
  const auto rows = static_cast<int64_t>(members.size());
  const int width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  Matrix q(rows, width), expected = q, actual = q;
  std::vector<std::vector<int32_t>> tables;
  std::vector<SequenceSpan> spans;
  int next_page = 9;
  for (size_t i = 0; i < members.size(); ++i) {
    const auto [shared, total] = members[i];
    Sequence s(shape, total, 700 + 10 * i);
    const int common = std::min(shared * kKvPageSize, total - 1);
    for (int t = 0; t < common; ++t) {
      std::copy_n(&prompt.k.at(t, 0), kv_width, &s.k.at(t, 0));
      std::copy_n(&prompt.v.at(t, 0), kv_width, &s.v.at(t, 0));
    }
    auto& table = tables.emplace_back(pages.begin(), pages.begin() + shared);
    while (static_cast<int>(table.size()) * kKvPageSize < total)
      table.push_back(pages[static_cast<size_t>(next_page++)]);
    const SequenceSpan all{0, total, 0, table};
    cpu.kv_write(*cache, 0, s.k, s.v, std::span(&all, 1));
    const Matrix alone = attend_in_chunks(cpu, shape, dtype, s, total, params, [](int) { return 30; });
    std::copy_n(&alone.at(total - 1, 0), width, &expected.at(static_cast<int64_t>(i), 0));
    std::copy_n(&s.q.at(total - 1, 0), width, &q.at(static_cast<int64_t>(i), 0));
  }
  for (size_t i = 0; i < members.size(); ++i)
    spans.push_back({static_cast<int>(i), 1, members[i].total - 1, tables[i]});
  cpu.attention(actual, Mat(), q, *cache, 0, spans, params);
  expect_same_bits(expected, actual, cpu.description());
}

TEST(Attention, SharedPagesChangeNothing) {
  for (const Shape& shape : {Shape{9, 3, 64}, Shape{4, 4, 32}, Shape{50, 1, 16}}) {
    for (const auto& cpu : cpu_backends(2)) {
      for (const DType dtype : kDtypes) expect_shared_pages_change_nothing(*cpu, shape, dtype);
    }
  }
}

/// Keys and values that int8 holds exactly give what f32 gives, but for the 15 bits of q and of
/// probabilities.
TEST(Attention, Int8KeepsWhatItCanHold) {
  constexpr Shape kShape{6, 2, 64};
  constexpr int kTokens = 150;
  Sequence s(kShape, kTokens, 500);
  for (Matrix* m : {&s.k, &s.v}) {
    for (size_t i = 0; i < m->values().size(); ++i) {
      float& x = m->values()[i];
      x = i % 64 == 0 ? 1.0f : std::nearbyint(std::clamp(x, -1.0f, 1.0f) * 127.0f) / 127.0f;
    }
  }
  const AttentionParams params{.scale = 0.125f};
  const auto all = [](int) { return kTokens; };
  const auto ref = make_ref_backend();
  const Matrix expected = attend_in_chunks(*ref, kShape, DType::kF32, s, kTokens, params, all);
  for (const auto& cpu : cpu_backends(2)) {
    expect_near(expected, attend_in_chunks(*cpu, kShape, DType::kI8, s, kTokens, params, all), 5e-4,
                cpu->description());
  }
}

TEST(Attention, AFreedPageLeaksNothing) {
  constexpr Shape kShape{4, 2, 12};
  constexpr AttentionParams kParams{.scale = 0.3f};
  const Sequence s(kShape, 21, 400);
  for (const DType dtype : kDtypes) {
    auto backends = cpu_backends(2);
    backends.push_back(make_ref_backend());
    for (const auto& backend : backends) {
      const auto cache = backend->make_kv_cache({1, 2, kShape.kv_heads, kShape.head_dim, dtype});
      const std::vector<int32_t> pages = {1, 0};
      const SequenceSpan old_owner{0, 32, 0, pages};
      const Matrix poison(32, kShape.kv_heads * kShape.head_dim, std::numeric_limits<float>::quiet_NaN());
      backend->kv_write(*cache, 0, poison, poison, std::span(&old_owner, 1));

      const SequenceSpan new_owner{0, 21, 0, pages};
      backend->kv_write(*cache, 0, s.k, s.v, std::span(&new_owner, 1));
      Matrix o(21, kShape.heads * kShape.head_dim);
      backend->attention(o, Mat(), s.q, *cache, 0, std::span(&new_owner, 1), kParams);
      expect_same_bits(attend_in_chunks(*backend, kShape, dtype, s, 21, kParams, [](int) { return 21; }), o,
                       backend->description());
    }
  }
}

}  // namespace
}  // namespace polylora
