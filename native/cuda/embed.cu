// out[r, :] = table[tokens[r], :], bf16 to f32.
//
// One block per row; a thread turns 16 bytes of the table into 32 of the residual stream.

#include "cuda/kernels.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kThreads = 128;

QWEN3_KERNEL(kThreads) embed_kernel(const Bf16* table, const int32_t* tokens, int hidden, float* out) {
  const int64_t row = block_index().x;
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t token = load(tokens + row);
  const auto* from = reinterpret_cast<const Words4*>(table + token * hidden);
  auto* to = reinterpret_cast<Float4*>(out + row * hidden);
  for (int i = thread_index().x; i < hidden / 8; i += kThreads) {
    const Words4 v = load(from + i);
    store(to + 2 * i, {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)});
    store(to + 2 * i + 1, {bf16_low(v.z), bf16_high(v.z), bf16_low(v.w), bf16_high(v.w)});
  }
}

}  // namespace

void embed(Stream stream, const Bf16* table, const int32_t* tokens, int n_rows, int hidden, float* out) {
  launch(stream, "embed", embed_kernel, {{n_rows, 1, 1}, {kThreads, 1, 1}, 0, true}, table, tokens, hidden, out);
}

}  // namespace qwen3::cuda
