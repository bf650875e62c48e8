#include "ops/check_batch.h"

#include <string>

#include "core/status.h"

namespace qwen3 {
namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw Error(ErrorCode::kInternal, std::string("step refused: ") + what);
}

}  // namespace

void check_batch(const Program& program, const StepBatch& batch, int64_t n_blocks, int64_t max_rows, int64_t n_drawn) {
  const int64_t n_rows = static_cast<int64_t>(batch.tokens.size());
  expect(n_rows <= max_rows, "more rows than the executable was compiled for");
  for (const int32_t token : batch.tokens) {
    expect(token >= -n_drawn && token < program.vocab, "token beyond the vocabulary");
  }
  int64_t next_row = 0;
  for (const StepSequence& s : batch.sequences) {
    expect(s.row_begin == next_row && s.n_rows >= 0, "sequences do not cover the rows in order");
    expect(s.position_begin >= 0, "negative position");
    const int64_t n_keys = int64_t{s.position_begin} + s.n_rows;
    expect(static_cast<int64_t>(s.block_table.size()) * kBlockSize >= n_keys, "block table too short");
    expect(s.rope_table >= 0 && s.rope_table < static_cast<int64_t>(program.rope_tables.size()), "no such rope table");
    for (int64_t b = 0; b * kBlockSize < n_keys; ++b) {
      expect(s.block_table[b] >= 0 && s.block_table[b] < n_blocks, "block beyond the cache");
    }
    next_row += s.n_rows;
  }
  expect(next_row == n_rows, "sequences do not cover the rows in order");
  int64_t last = -1;
  for (const int32_t row : batch.logits_rows) {
    expect(row > last && row < n_rows, "logits rows not ascending or out of range");
    last = row;
  }
}

}  // namespace qwen3
