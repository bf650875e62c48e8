#pragma once

#include <cstdint>
#include <span>

namespace qwen3 {

// Positions per KV cache block. Key tiles are multiples of it at absolute positions.
constexpr int32_t kBlockSize = 64;
// Decode attention is split over keys at multiples of this many absolute positions, always, so that the order of every
// reduction depends on the position alone.
constexpr int32_t kSplitSize = 512;

// One sequence's share of a step: `n_rows` consecutive positions from `position_begin`, laid out in rows
// [row_begin, row_begin + n_rows) of the step. Keys [0, position_begin + n_rows) are visible, causally.
struct StepSequence {
  int32_t row_begin = 0;
  int32_t n_rows = 0;
  int32_t position_begin = 0;
  // Physical block of each 64 logical positions, [ceil((position_begin + n_rows) / 64)].
  std::span<const int32_t> block_table;
  // 0: unscaled RoPE, 1: the model's YaRN table.
  int32_t rope_table = 0;
  // Its rows continue what was generated, one token each (or drafts of them): they take a device's decode kernels, so
  // that a draft's row has the bits that it would have alone. Kernels follow this and never the number of rows. At most
  // 65, a token and 64 drafts.
  bool decode = false;
};

// What a forward pass reads: many sequences at once, prefill chunks and decode rows mixed freely.
struct StepBatch {
  // [n_rows], each in [0, vocab); in Executable::enqueue also -1 - i: the i-th token that the step queued before draws.
  std::span<const int32_t> tokens;
  std::span<const StepSequence> sequences;  // cover the rows, ascending and without gaps
  std::span<const int32_t> logits_rows;     // [n_logits], ascending rows whose logits are wanted
};

}  // namespace qwen3
