// What a step does before its first layer: its tokens, their embeddings and the angles of their positions. One launch,
// as each costs a microsecond or two of a step that takes a few hundred.
//
// One block per row: four warps turn 16 bytes of the embedding's table at a time into 32 of the residual stream, two
// others work out the angles meanwhile.

#include "cuda/kernels.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kCopying = 128, kThreads = kCopying + 64;

QWEN3_DEVICE int32_t token_of(const StepBegin& p, int row) {
  int32_t token = load(p.given + row);
  if (token < 0) token = load(p.drawn + (-1 - token));
  // A logit that was not finite drew -1; the host gives that sequence up, and its row must not read beyond the table.
  return token < 0 ? 0 : token;
}

// cos(position * inv_freq) * factor: an f32 angle would be wrong by 0.004 at position 100,000.
QWEN3_DEVICE void write_angles(const StepBegin& p, int row, int first) {
  const int half = p.head_dim / 2, table = load(p.rows.rope_table + row);
  const double position = load(p.rows.position + row), factor = load(p.factor + table);
  for (int i = first; i < half; i += kThreads - kCopying) {
    const double angle = position * load(p.inv_freq + table * half + i);
    store(p.cos + row * half + i, static_cast<float>(cosine(angle) * factor));
    store(p.sin + row * half + i, static_cast<float>(sine(angle) * factor));
  }
}

QWEN3_KERNEL(kThreads) begin_step_kernel(QWEN3_GRID_CONSTANT const StepBegin p) {
  const int row = block_index().x, thread = thread_index().x;
  grid_dependency_launch();
  grid_dependency_wait();
  if (thread >= kCopying) return write_angles(p, row, thread - kCopying);
  const int64_t token = token_of(p, row);
  if (thread == 0) store(p.tokens + row, static_cast<int32_t>(token));
  const auto* from = reinterpret_cast<const Words4*>(p.table + token * p.hidden);
  auto* to = reinterpret_cast<Float4*>(p.out + static_cast<int64_t>(row) * p.hidden);
  for (int i = thread; i < p.hidden / 8; i += kCopying) {
    const Words4 v = load(from + i);
    store(to + 2 * i, {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)});
    store(to + 2 * i + 1, {bf16_low(v.z), bf16_high(v.z), bf16_low(v.w), bf16_high(v.w)});
  }
}

}  // namespace

// The first of a step waits for all that was before it: only what comes behind overlaps with its predecessor.
void begin_step(Stream stream, const StepBegin& operands, int n_rows) {
  launch(stream, "begin_step", begin_step_kernel, {{n_rows, 1, 1}, {kThreads, 1, 1}, 0}, operands);
}

}  // namespace qwen3::cuda
