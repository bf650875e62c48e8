#pragma once

#include <cstdint>
#include <vector>

#include "ops/step.h"

namespace qwen3::cpu {

// One tile of query rows of a sequence for one KV head. partial < 0: all its splits are walked by one thread, which
// writes the output. Otherwise it is one split, and its result goes to the partial buffer at that float.
struct AttentionTask {
  int32_t sequence, kv_head;
  int32_t row, n_positions;  // of the step
  int32_t split_begin, split_end;
  int64_t partial;
};

// Folds the splits of one tile and KV head.
struct CombineTask {
  int32_t kv_head, row, n_positions, n_splits;
  int64_t partial;
};

// How a step's attention is cut into tasks. Which cut is chosen never changes a bit of the result: splits are computed
// and folded in the same order either way. All memory is taken by the constructor.
class AttentionPlan {
 public:
  AttentionPlan() = default;
  AttentionPlan(int64_t max_rows, int64_t max_positions, int32_t n_q_heads, int32_t n_kv_heads, int32_t v_cols,
                int32_t n_threads);

  void build(const StepBatch& batch);
  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  const std::vector<CombineTask>& combines() const { return combines_; }
  int64_t partial_floats() const { return capacity_; }
  int32_t group() const { return group_; }
  int32_t tile_positions() const { return tile_positions_; }
  int64_t partial_row() const { return 2 + v_cols_; }

 private:
  void add_tile(int32_t sequence, int32_t row, int32_t n_positions, int32_t n_splits, bool split);

  int32_t n_kv_heads_ = 0, group_ = 1, v_cols_ = 0, n_threads_ = 1, tile_positions_ = 1;
  int64_t capacity_ = 0, used_ = 0;
  std::vector<AttentionTask> tasks_;
  std::vector<CombineTask> combines_;
};

}  // namespace qwen3::cpu
