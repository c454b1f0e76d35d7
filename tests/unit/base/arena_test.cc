#include "base/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace polylora {
namespace {

bool is_zero(const HugeBuffer& buffer) {
  return std::all_of(buffer.data(), buffer.data() + buffer.size(),
                     [](std::byte b) { return b == std::byte{0}; });
}

TEST(HugeBuffer, IsZeroedAndAligned) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{1} << 20, size_t{9} << 20}) {
    const HugeBuffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_TRUE(is_zero(buffer));
  }
  EXPECT_EQ(HugeBuffer(0).data(), nullptr);
}

TEST(HugeBuffer, StaysZeroedWhenMemoryComesBack) {
  for (int round = 0; round < 100; ++round) {
    std::vector<HugeBuffer> pieces;
    for (int i = 0; i < 10; ++i) {
      pieces.emplace_back(size_t{700000});
      ASSERT_TRUE(is_zero(pieces.back()));
      std::memset(pieces.back().data(), 0xff, pieces.back().size());
    }
  }
}

TEST(HugeBuffer, Moves) {
  HugeBuffer a(1000);
  std::byte* data = a.data();
  HugeBuffer b(std::move(a));
  EXPECT_EQ(b.data(), data);
  HugeBuffer c(2000);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.size(), 1000u);
}

TEST(HugeBuffer, ManyThreadsAllocateAndFree) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      std::vector<HugeBuffer> live(8);
      for (size_t i = 0; i < 300; ++i) {
        HugeBuffer fresh(10000 + i * 1000);
        fresh.data()[fresh.size() - 1] = std::byte{1};
        live[i % live.size()] = std::move(fresh);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace polylora
