#pragma once

// QK-Norm, RoPE and the append to the cache for one head of one row, as part of kernels: qk_norm_rope.cu, and the
// projection itself where rows are few (linear_stream.cu). Roundings are spelled out: the same bits in both.

#include "cuda/kernels.h"
#include "cuda/math.h"

namespace qwen3::cuda {

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

// One warp: a lane holds head_dim / 32 consecutive elements, and the other half of its pairs is in the lane 16 away.
// head: of the q heads, then the k heads, then the v heads.
template <int kHeadDim>
QWEN3_DEVICE void finish_head(const QkNormRope& p, int64_t row, int head) {
  constexpr int N = kHeadDim / 32;
  const HeadShape& heads = p.heads;
  const int lane = thread_index().x % 32, n_heads = heads.n_q_heads + 2 * heads.n_kv_heads;
  float v[N];
  load_values<N>(p.qkv + (row * n_heads + head) * kHeadDim + lane * N, v);
  const bool is_q = head < heads.n_q_heads, is_v = head >= heads.n_q_heads + heads.n_kv_heads;
  // All loads ahead of the first use of one: a trip to the L2 together, not each its own.
  const int64_t slot = is_q ? 0 : load(p.rows.slot + row);
  if (!is_v) {
    float w[N], c[N], s[N];
    load_values<N>((is_q ? p.q_norm : p.k_norm) + lane * N, w);
    load_values<N>(p.cos + row * (kHeadDim / 2) + lane % 16 * N, c);
    load_values<N>(p.sin + row * (kHeadDim / 2) + lane % 16 * N, s);
    float sum = 0;
    for (int i = 0; i < N; ++i) sum = fma(v[i], v[i], sum);
    const float scale = 1.0f / square_root(warp_sum(sum) / static_cast<float>(kHeadDim) + p.eps);
    for (int i = 0; i < N; ++i) {
      const float x = v[i] * scale * w[i];
      const float other = shuffle_xor(x, 16);
      v[i] = fma(x, c[i], lane < 16 ? -(other * s[i]) : other * s[i]);
    }
  }
  if (is_q) {
    store_bf16<N>(p.q_out + (row * heads.n_q_heads + head) * kHeadDim + lane * N, v);
    return;
  }
  const int kv_head = (head - heads.n_q_heads) % heads.n_kv_heads;
  const int64_t at = ((slot / 64) * heads.n_kv_heads + kv_head) * 64 + slot % 64;
  store_bf16<N>((is_v ? p.cache.values : p.cache.keys) + at * kHeadDim + lane * N, v);
}

}  // namespace qwen3::cuda
