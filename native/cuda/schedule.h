#pragma once

// How the attention of a step is cut into tiles: once per step on the host, the same for every layer.

#include <span>
#include <vector>

#include "cuda/kernels.h"
#include "ops/step.h"

namespace qwen3::cuda {

struct AttentionSchedule {
  std::vector<AttentionSequence> sequences;
  std::vector<int32_t> block_table;  // of all sequences, one after another
  std::vector<AttentionTile> prefill;
  std::vector<DecodeTile> decode;
  int32_t n_partials = 0;
  // Of persistent blocks (share_prefill): where each block's tasks begin, [n_blocks + 1], then the tasks, a tile of
  // `prefill` and a KV head as tile * n_kv_heads + head.
  std::vector<int32_t> tasks;
};

// Keys of a split of a decoding row that sees n_keys: few enough that one row alone keeps a GPU busy, so many that a
// result of head_dim f32 numbers per split costs little. By the row alone, whatever else is in the step.
int32_t split_keys(int32_t n_keys);
int32_t most_splits(int32_t n_keys);  // of a row that sees so many or fewer

// Rows of sequences that decode (StepSequence::decode) are one tile each, split at multiples of split_keys; the others
// are prefilled. Tiles with most keys come first: blocks start in order, and the last to start should be short; of
// those that are prefilled, a sequence's tiles together, as they share its K and V in the L2. `out` keeps its memory
// from step to step.
void schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, AttentionSchedule& out);
// Deals the tiles of schedule.prefill, for each KV head, to n_blocks persistent blocks: in an order that leaves K and V
// in the L2 for the next who need them, each task to the block that has least to do so far. Every block of the first
// min(n_blocks, tasks) has one. Without tiles there are no tasks at all.
void share_prefill(const HeadShape& heads, int n_blocks, AttentionSchedule& schedule);
// For steps made by hand: sequences of one row decode, unless one_class.
AttentionSchedule schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, bool one_class);

}  // namespace qwen3::cuda
