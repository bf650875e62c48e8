// q' = rope(rms_norm(q, q_norm)), k' = rope(rms_norm(k, k_norm)), k' and v into the paged cache, in one pass.
// Rotate-half with h = head_dim / 2: out[i] = n[i] cos[i] - n[i + h] sin[i], out[i + h] = n[i + h] cos[i] + n[i]
// sin[i].
//
// One warp per head of a row: a lane holds head_dim / 32 consecutive elements, and the other half of its pairs is in
// the lane 16 away, one shuffle. 4 warps a block: enough loads in flight, no shared memory. Every byte is read once.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kWarps = 4;

// N consecutive values: in vectors of 16, 8 or 4 bytes.
template <int N>
QWEN3_DEVICE void load_values(const float* p, float (&v)[N]) {
  if constexpr (N % 4 == 0) {
    QWEN3_UNROLL
    for (int i = 0; i < N; i += 4) {
      const Float4 x = load(reinterpret_cast<const Float4*>(p + i));
      v[i] = x.x, v[i + 1] = x.y, v[i + 2] = x.z, v[i + 3] = x.w;
    }
  } else if constexpr (N == 2) {
    const Float2 x = load(reinterpret_cast<const Float2*>(p));
    v[0] = x.x, v[1] = x.y;
  } else {
    v[0] = load(p);
  }
}

template <int N>
QWEN3_DEVICE void store_bf16(Bf16* p, const float (&v)[N]) {
  if constexpr (N == 4) {
    store(reinterpret_cast<Words2*>(p), {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])});
  } else if constexpr (N == 2) {
    store(reinterpret_cast<uint32_t*>(p), pack_bf16(v[0], v[1]));
  } else {
    store(p, static_cast<Bf16>(pack_bf16(v[0], 0.0f)));
  }
}

template <int kHeadDim>
QWEN3_KERNEL(kWarps * 32)
qk_norm_rope_kernel(const float* qkv, const float* q_norm, const float* k_norm, const float* cos, const float* sin,
                    RowMap rows, HeadShape heads, float eps, Bf16* q_out, KvLayer cache) {
  constexpr int N = kHeadDim / 32;
  const int64_t row = block_index().x;
  const int lane = thread_index().x % 32, head = block_index().y * kWarps + thread_index().x / 32;
  const int n_heads = heads.n_q_heads + 2 * heads.n_kv_heads;
  if (head >= n_heads) return;  // whole warps
  grid_dependency_wait();
  float v[N];
  load_values<N>(qkv + (row * n_heads + head) * kHeadDim + lane * N, v);
  const bool is_q = head < heads.n_q_heads, is_v = head >= heads.n_q_heads + heads.n_kv_heads;
  if (!is_v) {
    float sum = 0;
    for (int i = 0; i < N; ++i) sum += v[i] * v[i];
    const float scale = 1.0f / square_root(warp_sum(sum) / static_cast<float>(kHeadDim) + eps);
    float w[N], c[N], s[N];
    load_values<N>((is_q ? q_norm : k_norm) + lane * N, w);
    load_values<N>(cos + row * (kHeadDim / 2) + lane % 16 * N, c);
    load_values<N>(sin + row * (kHeadDim / 2) + lane % 16 * N, s);
    for (int i = 0; i < N; ++i) {
      const float x = v[i] * scale * w[i];
      const float other = shuffle_xor(x, 16);
      v[i] = lane < 16 ? x * c[i] - other * s[i] : x * c[i] + other * s[i];
    }
  }
  if (is_q) {
    store_bf16<N>(q_out + (row * heads.n_q_heads + head) * kHeadDim + lane * N, v);
    return;
  }
  const int kv_head = (head - heads.n_q_heads) % heads.n_kv_heads;
  const int64_t slot = load(rows.slot + row);
  const int64_t at = ((slot / 64) * heads.n_kv_heads + kv_head) * 64 + slot % 64;
  store_bf16<N>((is_v ? cache.values : cache.keys) + at * kHeadDim + lane * N, v);
}

// cos(position * inv_freq) * factor: an f32 angle would be wrong by 0.004 at position 100,000.
QWEN3_KERNEL(128)
rope_rows_kernel(RowMap rows, const double* inv_freq, const double* factor, int half, int n, float* cos, float* sin) {
  const int i = block_index().x * 128 + thread_index().x;
  if (i >= n) return;
  const int row = i / half;
  const int table = load(rows.rope_table + row);
  const double angle = load(rows.position + row) * load(inv_freq + table * half + i % half);
  const double f = load(factor + table);
  store(cos + i, static_cast<float>(cosine(angle) * f));
  store(sin + i, static_cast<float>(sine(angle) * f));
}

}  // namespace

void rope_rows(Stream stream, const RowMap& rows, const double* inv_freq, const double* factor, int n_rows,
               int head_dim, float* cos, float* sin) {
  const int n = n_rows * (head_dim / 2);
  launch(stream, "rope_rows", rope_rows_kernel, {{(n + 127) / 128, 1, 1}, {128, 1, 1}, 0}, rows, inv_freq, factor,
         head_dim / 2, n, cos, sin);
}

void qk_norm_rope_append(Stream stream, const float* qkv, const float* q_norm, const float* k_norm, const float* cos,
                         const float* sin, const RowMap& rows, int n_rows, const HeadShape& heads, float eps,
                         Bf16* q_out, const KvLayer& cache) {
  const int n_heads = heads.n_q_heads + 2 * heads.n_kv_heads;
  const LaunchShape shape{{n_rows, (n_heads + kWarps - 1) / kWarps, 1}, {kWarps * 32, 1, 1}, 0};
  const auto run = [&](auto kernel) {
    launch(stream, "qk_norm_rope_append", kernel, shape, qkv, q_norm, k_norm, cos, sin, rows, heads, eps, q_out, cache);
  };
  if (heads.head_dim == 128) run(qk_norm_rope_kernel<128>);
  if (heads.head_dim == 64) run(qk_norm_rope_kernel<64>);
  if (heads.head_dim == 32) run(qk_norm_rope_kernel<32>);
}

}  // namespace qwen3::cuda
