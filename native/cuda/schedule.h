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
  std::vector<AttentionTile> prefill, decode;
  std::vector<CombineRow> combine;  // decode rows of more than one split
  int32_t n_partials = 0;
};

// Sequences of one row are decoded, split at multiples of kSplitSize; the others are prefilled. one_class: everything
// is prefilled, so that a row's bits do not depend on how it came (the `full` grade of batch invariance). Tiles with
// most keys come first: blocks start in order, and the last to start should be short.
AttentionSchedule schedule_attention(std::span<const StepSequence> sequences, const HeadShape& heads, bool one_class);

}  // namespace qwen3::cuda
