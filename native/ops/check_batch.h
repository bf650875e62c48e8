#pragma once

#include "ops/program.h"
#include "ops/step.h"

namespace qwen3 {

// Holds a step against its contract before a kernel trusts it: rows covered in order, at most max_rows, tokens below
// the vocabulary, blocks below n_blocks and enough of them, rope tables that exist, logits rows ascending and in range.
// A violation is a defect of the caller: throws Error(kInternal). n_drawn: how many tokens the step queued before
// draws.
void check_batch(const Program& program, const StepBatch& batch, int64_t n_blocks, int64_t max_rows,
                 int64_t n_drawn = 0);

}  // namespace qwen3
