#include "cpu/attention_plan.h"

#include <algorithm>

#include "cpu/kernels.h"

namespace qwen3::cpu {
namespace {
// Tasks per thread that make splitting over keys unnecessary.
constexpr int64_t kEnoughTasks = 4;
// Positions whose partial results fit at the longest context: splitting pays when few rows are in the step.
constexpr int64_t kPartialPositions = 4;
}  // namespace

AttentionPlan::AttentionPlan(int64_t max_rows, int64_t max_positions, int32_t n_q_heads, int32_t n_kv_heads,
                             int32_t v_cols, int32_t n_threads)
    : n_kv_heads_(n_kv_heads), group_(n_q_heads / n_kv_heads), v_cols_(v_cols), n_threads_(n_threads) {
  tile_positions_ = static_cast<int32_t>(std::max<int64_t>(1, kTileRows / group_));
  const int64_t max_splits = (max_positions + kSplitSize - 1) / kSplitSize;
  if (max_splits > 1 && n_threads > 1) capacity_ = kPartialPositions * max_splits * n_q_heads * partial_row();
  const int64_t max_partial_tasks = capacity_ / (int64_t{group_} * partial_row());
  tasks_.reserve(static_cast<size_t>(max_rows * n_kv_heads + max_partial_tasks));
  combines_.reserve(static_cast<size_t>(max_rows * n_kv_heads));
}

void AttentionPlan::add_tile(int32_t sequence, int32_t row, int32_t n_positions, int32_t n_splits, bool split) {
  const int64_t per_split = int64_t{n_positions} * group_ * partial_row(), per_head = per_split * n_splits;
  split = split && n_splits > 1 && used_ + per_head * n_kv_heads_ <= capacity_;
  for (int32_t head = 0; head < n_kv_heads_; ++head) {
    if (!split) {
      tasks_.push_back({sequence, head, row, n_positions, 0, n_splits, -1});
      continue;
    }
    combines_.push_back({head, row, n_positions, n_splits, used_});
    for (int32_t s = 0; s < n_splits; ++s) {
      tasks_.push_back({sequence, head, row, n_positions, s, s + 1, used_ + s * per_split});
    }
    used_ += per_head;
  }
}

void AttentionPlan::build(const StepBatch& batch) {
  tasks_.clear();
  combines_.clear();
  used_ = 0;
  int64_t n_tiles = 0;
  for (const StepSequence& s : batch.sequences) n_tiles += (s.n_rows + tile_positions_ - 1) / tile_positions_;
  const bool split = capacity_ > 0 && n_tiles * n_kv_heads_ < kEnoughTasks * n_threads_;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const StepSequence& s = batch.sequences[i];
    // Longest tiles first, so that the last ones to be claimed are short.
    for (int32_t tile = (s.n_rows + tile_positions_ - 1) / tile_positions_ - 1; tile >= 0; --tile) {
      const int32_t begin = tile * tile_positions_, n = std::min(tile_positions_, s.n_rows - begin);
      const int32_t last = s.position_begin + begin + n - 1;
      // A tile whose rows do not all reach its last split is never split: a partial result belongs to every row.
      const bool same = (s.position_begin + begin) / kSplitSize == last / kSplitSize;
      add_tile(static_cast<int32_t>(i), s.row_begin + begin, n, last / kSplitSize + 1, split && same);
    }
  }
}

}  // namespace qwen3::cpu
