// What a queued step does before its first operation: token[r] = given[r], or, where that is -1 - i, drawn[i], the i-th
// token of the step before, which the host need not have seen yet. One thread per row.

#include "cuda/kernels.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kThreads = 128;

QWEN3_KERNEL(kThreads) take_tokens_kernel(const int32_t* given, const int32_t* drawn, int n_rows, int32_t* tokens) {
  const int row = block_index().x * kThreads + thread_index().x;
  grid_dependency_launch();
  grid_dependency_wait();
  if (row >= n_rows) return;
  int32_t token = load(given + row);
  if (token < 0) token = load(drawn + (-1 - token));
  // A logit that was not finite drew -1; the host gives that sequence up, and its row must not read beyond the table.
  store(tokens + row, token < 0 ? 0 : token);
}

}  // namespace

// The first of a step waits for all that was before it: only what comes behind overlaps with its predecessor.
void take_tokens(Stream stream, const int32_t* given, const int32_t* drawn, int n_rows, int32_t* tokens) {
  launch(stream, "take_tokens", take_tokens_kernel, {{(n_rows + kThreads - 1) / kThreads, 1, 1}, {kThreads, 1, 1}, 0},
         given, drawn, n_rows, tokens);
}

}  // namespace qwen3::cuda
