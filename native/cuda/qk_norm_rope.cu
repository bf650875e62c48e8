// q' = rope(rms_norm(q, q_norm)), k' = rope(rms_norm(k, k_norm)), k' and v into the paged cache, in one pass.
// Rotate-half with h = head_dim / 2: out[i] = n[i] cos[i] - n[i + h] sin[i], out[i + h] = n[i + h] cos[i] + n[i]
// sin[i].
//
// One warp per head of a row, 4 warps a block: enough loads in flight, no shared memory. Every byte is read once.

#include "cuda/ptx/launch.h"
#include "cuda/qk_norm_rope.h"

namespace qwen3::cuda {
namespace {

constexpr int kWarps = 4;

template <int kHeadDim>
QWEN3_DEVICE void finish_head(const QkNormRope& p, int64_t row, int head) {
  constexpr int N = kHeadDim / 32;
  const HeadShape& heads = p.heads;
  const int lane = thread_index().x % 32;
  const bool is_q = head < heads.n_q_heads, is_v = head >= heads.n_q_heads + heads.n_kv_heads;
  // All that is needed is asked for at once: behind each other, these are trips to L2.
  float v[N], weight[N], c[N], s[N];
  load_head<N>(p, row, head, v);
  const int64_t slot = is_q ? 0 : load(p.rows.slot + row);
  if (!is_v) {
    load_values<N>((is_q ? p.q_norm : p.k_norm) + lane * N, weight);
    load_angles<N>(p, row, c, s);
    norm_and_rotate<N>(v, weight, c, s, p.eps);
  }
  if (is_q) {
    store_bf16<N>(p.q_out + (row * heads.n_q_heads + head) * kHeadDim + lane * N, v);
    return;
  }
  const int kv_head = (head - heads.n_q_heads) % heads.n_kv_heads;
  const int64_t at = ((slot / 64) * heads.n_kv_heads + kv_head) * 64 + slot % 64;
  store_bf16<N>((is_v ? p.cache.values : p.cache.keys) + at * kHeadDim + lane * N, v);
}

template <int kHeadDim>
QWEN3_KERNEL(kWarps * 32)
qk_norm_rope_kernel(QkNormRope p) {
  const int head = block_index().y * kWarps + thread_index().x / 32;
  grid_dependency_launch();
  grid_dependency_wait();
  if (head < p.heads.n_q_heads + 2 * p.heads.n_kv_heads)
    finish_head<kHeadDim>(p, block_index().x, head);  // whole warps
}

}  // namespace

void qk_norm_rope_append(Stream stream, const QkNormRope& operands, int n_rows) {
  const HeadShape& heads = operands.heads;
  const int n_heads = heads.n_q_heads + 2 * heads.n_kv_heads;
  const LaunchShape shape{{n_rows, (n_heads + kWarps - 1) / kWarps, 1}, {kWarps * 32, 1, 1}, 0, true};
  const auto run = [&](auto kernel) { launch(stream, "qk_norm_rope_append", kernel, shape, operands); };
  if (heads.head_dim == 128) run(qk_norm_rope_kernel<128>);
  if (heads.head_dim == 64) run(qk_norm_rope_kernel<64>);
  if (heads.head_dim == 32) run(qk_norm_rope_kernel<32>);
}

}  // namespace qwen3::cuda
