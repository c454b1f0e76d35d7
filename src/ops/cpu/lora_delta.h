// LoRA for a batch that mixes adapters: y += scale · (x·Aᵀ)·Bᵀ per group of rows.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/backend.h"
#include "ops/cpu/cpu_lora.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/work_queue.h"

namespace polylora::cpu {

/// Some rows and columns of y; columns are counted in panels.
struct OutputBlock {
  int64_t row_begin;
  int64_t row_end;
  int64_t panel_begin;
  int64_t panel_end;
};

/// Two sweeps over all groups at once: shrink (h = x·Aᵀ, one item per 16 stacked ranks) and expand (y +=
/// h·Bᵀ). Each adapter's bytes are read once per call, unless a group has many rows. The cost of a decode
/// batch is those bytes.
///
/// The sweeps are stages of somebody's parallel region, with a barrier between any two: narrow, shrink,
/// expand.
class LoraDelta {
 public:
  LoraDelta(const Kernels& kernels, ThreadPool& pool)
      : kernels_(kernels),
        pool_(pool),
        x_(kernels),
        h_(kernels),
        shrink_queue_(pool.size()),
        expand_queue_(pool.size()) {}

  /// All of it, as a region of its own.
  void run(Mat y, ConstMat x, std::span<const LoraGroup> groups);

  // --- stages
  // ----------------------------------------------------------------------------------------------
  /// Before the region. `narrowed`: rows of x that somebody narrows for panels of `narrowed_kind`, and that
  /// are used where adapters are of that kind; null = none. False: no group has an adapter.
  bool plan(ConstMat x, int64_t n, std::span<const LoraGroup> groups, const NarrowedRows* narrowed = nullptr,
            PanelKind narrowed_kind = PanelKind::kF32);
  /// Whether blocks of whole panels of y keep the writes of different blocks apart.
  bool blocks_are_disjoint() const { return aligned_; }

  /// This member's share of `members`.
  void narrow(ConstMat x, int member, int members);
  void shrink(int member);
  /// Asks for what expand() will read of B, so that it arrives while something else is computed.
  void fetch(const OutputBlock& block) const;
  /// Adds to that block of y. Blocks may be expanded in any order, by any thread.
  void expand(Mat y, const OutputBlock& block);

 private:
  struct Rows {  // rows of the batch that use one adapter
    const CpuLora* lora;
    float factor;
    int64_t begin;
    int64_t end;
    int64_t h_begin;  // where the h of the first lies: rows with several adapters have several

    Rows part(int64_t part_begin, int64_t part_end) const {
      return {lora, factor, part_begin, part_end, h_begin + part_begin - begin};
    }
  };
  struct Shrink {
    Rows rows;
    int64_t panel;
  };

  struct PanelRange {  // of a pair's B
    int64_t begin;
    int64_t end;
  };

  /// Calls body(rows, pair, panels) for every part of an adapter that adds to the block.
  template <typename Body>
  void for_each_part(const OutputBlock& block, Body body) const;
  void plan_shrink(const Rows& group);
  void shrink_item(const Shrink& item);
  void narrow_hidden(std::byte* row, const CpuLora& lora, int64_t panel, const float* h);
  /// Where in a row of h_ the values for a pair's B begin.
  size_t hidden_offset(const CpuLora::Pair& pair) const;
  void expand_pair(Mat y, const Rows& rows, const CpuLora::Pair& pair, const PanelRange& panels);

  const Kernels& kernels_;
  ThreadPool& pool_;
  NarrowedRows x_;
  NarrowedRows h_;
  const NarrowedRows* narrowed_ = nullptr;
  PanelKind narrowed_kind_ = PanelKind::kF32;
  int64_t k_ = 0;
  bool aligned_ = true;
  std::vector<Rows> groups_;
  std::vector<Shrink> shrinks_;
  StretchQueue shrink_queue_;
  StretchQueue expand_queue_;
};

}  // namespace polylora::cpu
