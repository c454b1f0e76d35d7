#include "engine/adapter_registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "engine/tiny_model.h"

namespace polylora {
namespace {

using testing::TempFolder;
using testing::write_adapter;
using LoadMode = AdapterRegistry::LoadMode;
using Residency = AdapterRegistry::Residency;

template <typename Body>
ErrorCode code_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::kInternal;
}

class AdapterRegistryTest : public ::testing::Test {
 protected:
  std::unique_ptr<AdapterRegistry> make(size_t bytes = 1 << 20, int count = 0, int64_t rank = 0) {
    return std::make_unique<AdapterRegistry>(
        std::vector<AdapterBase>{
            {.model = &model_, .dtype = DType::kF32, .max_lora_rank = rank, .names = {"base", "alias"}}},
        *backend_, AdapterRegistryOptions{.memory_bytes = bytes, .max_cpu_loras = count});
  }
  std::filesystem::path adapter(unsigned seed, int64_t rank = 4) {
    return write_adapter(folder_ / ("a" + std::to_string(seed)), seed, rank);
  }
  /// Asks until the answer is not "loading".
  static AdapterRegistry::Acquired acquire(AdapterRegistry& registry, const AdapterLease& lease) {
    for (int i = 0; i < 5000; ++i) {
      AdapterRegistry::Acquired answer = registry.acquire(lease);
      if (answer.residency != Residency::kLoading) return answer;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "loading never ended";
    return {};
  }
  size_t bytes_of_one() {
    auto registry = make();
    registry->add("x", adapter(99), LoadMode::kNow, false);
    return registry->resident_bytes();
  }

  const std::unique_ptr<Backend> backend_ = make_backend({.name = "cpu", .threads = 1});
  const Model model_ = testing::tiny_model(*backend_);
  const TempFolder folder_;
};

TEST_F(AdapterRegistryTest, LoadsNowOrOnFirstUse) {
  auto registry = make();
  registry->add("now", adapter(1), LoadMode::kNow, false, "alias");
  registry->add("lazy", adapter(2), LoadMode::kLazy, false);
  const auto infos = registry->list();
  ASSERT_EQ(infos.size(), 2u);
  EXPECT_EQ(infos[0].name, "now");
  EXPECT_EQ(infos[0].base_model_name, "alias");
  EXPECT_EQ(infos[1].base_model_name, "base");
  EXPECT_TRUE(infos[0].resident);
  EXPECT_GE(infos[0].load_seconds, 0);
  EXPECT_FALSE(infos[1].resident);
  EXPECT_LT(infos[1].load_seconds, 0);

  const AdapterLease lazy = registry->lease("lazy");
  EXPECT_EQ(adapter_content_hash(lazy), 0u);
  EXPECT_EQ(acquire(*registry, lazy).residency, Residency::kReady);
  EXPECT_NE(adapter_content_hash(lazy), 0u);
  EXPECT_EQ(registry->resident_count(), 2);
  EXPECT_EQ(registry->lease("unknown"), nullptr);
}

TEST_F(AdapterRegistryTest, EqualStacksAreOneGenerationAsLongAsTheirMembersHaveNames) {
  auto registry = make();
  for (unsigned i : {1u, 2u}) registry->add("a" + std::to_string(i), adapter(i), LoadMode::kLazy, false);
  const AdapterLease one = registry->lease("a1"), two = registry->lease("a2");
  const auto stack = [&](std::vector<StackTerm> members) { return registry->stack(members); };
  const AdapterLease both = stack({{one, 1.0f}, {two, 0.5f}});
  EXPECT_EQ(adapter_name(both), "a1+0.5*a2");
  EXPECT_EQ(both, stack({{one, 1.0f}, {two, 0.5f}}));
  EXPECT_NE(both, stack({{one, 1.0f}, {two, 0.25f}}));
  const auto acquired = acquire(*registry, both);
  ASSERT_EQ(acquired.residency, Residency::kReady);
  EXPECT_EQ(acquired.adapter->terms().size(), 2u);
  EXPECT_EQ(registry->resident_count(), 2);

  registry->remove("a2");
  EXPECT_NE(both, stack({{one, 1.0f}, {two, 0.5f}}));
  EXPECT_EQ(acquire(*registry, both).residency, Residency::kReady) << "a running request keeps its stack";
}

TEST_F(AdapterRegistryTest, RefusesSenselessStacks) {
  auto registry = make(bytes_of_one() * 3 / 2);
  for (unsigned i : {1u, 2u}) registry->add("a" + std::to_string(i), adapter(i), LoadMode::kLazy, false);
  const AdapterLease one = registry->lease("a1"), two = registry->lease("a2");
  const auto stack = [&](std::vector<StackTerm> members) {
    return code_of([&] { registry->stack(members); });
  };
  EXPECT_EQ(stack({{one, 1.0f}, {one, 2.0f}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(stack({{one, std::numeric_limits<float>::infinity()}}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(stack({{one, 1.0f}, {two, 1.0f}}), ErrorCode::kResourceExhausted);
}

TEST_F(AdapterRegistryTest, RefusesWhatItCannotServe) {
  auto registry = make(1 << 20, 0, 8);
  registry->add("a", adapter(1), LoadMode::kNow, false);
  EXPECT_EQ(code_of([&] { registry->add("a", adapter(1), LoadMode::kNow, false); }),
            ErrorCode::kAlreadyExists);
  EXPECT_EQ(code_of([&] { registry->add("b", folder_ / "none", LoadMode::kNow, false); }),
            ErrorCode::kNotFound);
  try {
    registry->add("c", adapter(3, 16), LoadMode::kLazy, false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "LoRA rank 16 is greater than max_lora_rank 8.");
  }
  EXPECT_EQ(code_of([&] { make(100)->add("d", adapter(4), LoadMode::kLazy, false); }),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(registry->list().size(), 1u);
}

TEST_F(AdapterRegistryTest, AReloadLeavesRunningLeasesAlone) {
  auto registry = make();
  registry->add("a", adapter(1), LoadMode::kNow, false);
  const AdapterLease old = registry->lease("a");
  const auto weights = acquire(*registry, old).adapter;
  registry->add("a", adapter(2), LoadMode::kNow, true);
  const AdapterLease fresh = registry->lease("a");
  EXPECT_NE(adapter_generation_id(old), adapter_generation_id(fresh));
  EXPECT_NE(adapter_content_hash(old), adapter_content_hash(fresh));
  EXPECT_EQ(acquire(*registry, old).adapter, weights);
  EXPECT_NE(acquire(*registry, fresh).adapter, weights);
  EXPECT_EQ(registry->resident_count(), 2);
  EXPECT_EQ(registry->list().size(), 1u);
}

TEST_F(AdapterRegistryTest, AFailedReloadLeavesTheOldGeneration) {
  auto registry = make();
  const auto path = adapter(1);
  registry->add("a", path, LoadMode::kNow, false);
  const uint64_t generation = registry->list()[0].generation;
  std::filesystem::resize_file(path / "adapter_model.safetensors", 100);
  EXPECT_THROW(registry->add("a", path, LoadMode::kNow, true), Error);
  EXPECT_EQ(registry->list()[0].generation, generation);
  EXPECT_EQ(acquire(*registry, registry->lease("a")).residency, Residency::kReady);
}

TEST_F(AdapterRegistryTest, UnloadingFreesMemoryWithTheLastUser) {
  auto registry = make();
  registry->add("a", adapter(1), LoadMode::kNow, false);
  AdapterLease lease = registry->lease("a");
  auto weights = acquire(*registry, lease).adapter;
  const size_t bytes = registry->resident_bytes();
  EXPECT_EQ(bytes, weights->bytes());
  EXPECT_TRUE(registry->remove("a"));
  EXPECT_FALSE(registry->remove("a"));
  EXPECT_EQ(registry->lease("a"), nullptr);
  EXPECT_EQ(registry->resident_bytes(), bytes);
  lease.reset();
  EXPECT_EQ(registry->resident_bytes(), bytes) << "a step still computes with the weights";
  weights.reset();
  EXPECT_EQ(registry->resident_bytes(), 0u);
  EXPECT_EQ(registry->resident_count(), 0);
}

TEST_F(AdapterRegistryTest, EvictsTheLeastRecentlyUsedThatNobodyUses) {
  const size_t one = bytes_of_one();
  auto registry = make(2 * one + one / 2);
  for (unsigned i = 1; i <= 3; ++i) registry->add(std::to_string(i), adapter(i), LoadMode::kLazy, false);
  const AdapterLease a = registry->lease("1"), b = registry->lease("2"), c = registry->lease("3");
  auto held = acquire(*registry, a);
  ASSERT_EQ(acquire(*registry, b).residency, Residency::kReady);
  auto also_held = acquire(*registry, c);
  EXPECT_EQ(also_held.residency, Residency::kReady);
  EXPECT_TRUE(registry->list()[0].resident) << "in use";
  EXPECT_FALSE(registry->list()[1].resident);
  EXPECT_EQ(registry->acquire(b).residency, Residency::kNoRoom);
  EXPECT_LE(registry->resident_bytes(), 2 * one + one / 2);
  held.adapter.reset();
  EXPECT_EQ(acquire(*registry, b).residency, Residency::kReady);
  EXPECT_FALSE(registry->list()[0].resident);
}

TEST_F(AdapterRegistryTest, ALoadThatFindsEverythingInUseIsRefused) {
  auto registry = make(1 << 20, 1);
  registry->add("a", adapter(1), LoadMode::kNow, false);
  {
    const auto held = acquire(*registry, registry->lease("a"));
    EXPECT_EQ(code_of([&] { registry->add("b", adapter(2), LoadMode::kNow, false); }),
              ErrorCode::kResourceExhausted);
  }
  registry->add("b", adapter(2), LoadMode::kNow, false);
  EXPECT_EQ(registry->resident_count(), 1);
}

TEST_F(AdapterRegistryTest, RefusesToReadBackChangedFiles) {
  auto registry = make(1 << 20, 1);
  registry->add("a", adapter(1), LoadMode::kNow, false);
  registry->add("b", adapter(2), LoadMode::kNow, false);  // evicts a
  write_adapter(folder_ / "a1", 77);
  const auto answer = acquire(*registry, registry->lease("a"));
  ASSERT_EQ(answer.residency, Residency::kFailed);
  EXPECT_NE(std::string(answer.error->what()).find("changed on disk since it was loaded; load it again"),
            std::string::npos);
  EXPECT_EQ(registry->resident_count(), 0) << "the share of the failed load was given back";
}

TEST_F(AdapterRegistryTest, ManyThreadsLoadUseAndUnload) {
  const size_t one = bytes_of_one();
  auto registry = make(4 * one);
  for (unsigned i = 0; i < 8; ++i) registry->add(std::to_string(i), adapter(i), LoadMode::kLazy, false);
  std::atomic<int> woken{0};
  const uint64_t wake = registry->add_wake([&] { ++woken; });
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 300; ++i) {
        const std::string name = std::to_string((i * (t + 1) + t) % 8);
        if (i % 29 == 5) {
          registry->remove(name);
        } else if (i % 7 == 3) {
          try {
            registry->add(name, folder_ / ("a" + name), i % 2 ? LoadMode::kLazy : LoadMode::kNow, i % 3 != 0);
          } catch (const Error& error) {
            EXPECT_TRUE(error.code() == ErrorCode::kAlreadyExists ||
                        error.code() == ErrorCode::kResourceExhausted)
                << error.what();
          }
        } else if (const AdapterLease lease = registry->lease(name)) {
          const AdapterLease other = registry->lease(std::to_string(i % 8));
          const bool both = i % 2 == 1 && other != nullptr && other != lease;
          const std::vector<StackTerm> members = {{lease, 1.0f}, {other, 0.5f}};
          EXPECT_NE(registry->acquire(both ? registry->stack(members) : lease).residency, Residency::kFailed);
        }
        registry->remove_wake(registry->add_wake([&] { ++woken; }));
        EXPECT_LE(registry->resident_bytes(), 4 * one);
        registry->list();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  registry->remove_wake(wake);
  for (const AdapterInfo& info : registry->list()) registry->remove(info.name);
  for (int i = 0; i < 1000 && registry->resident_bytes() > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(registry->resident_bytes(), 0u);
  EXPECT_GT(woken, 0);
}

}  // namespace
}  // namespace polylora
