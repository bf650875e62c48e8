#pragma once

// QK-Norm and RoPE of one head of one row, as part of kernels: qk_norm_rope.cu, and the attention of steps that only
// decode (attention_decode.cu). Roundings are spelled out: the same bits in both.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/vectors.h"

namespace qwen3::cuda {

// v = rope(rms_norm(v, weight)) of one head by one warp: a lane holds N = head_dim / 32 consecutive elements, and the
// other half of its pairs is in the lane 16 away. c, s: of the lane's elements modulo head_dim / 2.
template <int N>
QWEN3_DEVICE void norm_and_rotate(float (&v)[N], const float (&weight)[N], const float (&c)[N], const float (&s)[N],
                                  float eps) {
  float sum = 0;
  for (int i = 0; i < N; ++i) sum = fma(v[i], v[i], sum);
  const float scale = 1.0f / square_root(warp_sum(sum) / static_cast<float>(N * 32) + eps);
  for (int i = 0; i < N; ++i) {
    const float x = v[i] * scale * weight[i];
    const float other = shuffle_xor(x, 16);
    v[i] = fma(x, c[i], thread_index().x % 32 < 16 ? -(other * s[i]) : other * s[i]);
  }
}

template <int N>
QWEN3_DEVICE void load_angles(const QkNormRope& p, int64_t row, float (&c)[N], float (&s)[N]) {
  const int64_t at = row * (N * 16) + thread_index().x % 16 * N;
  load_values<N>(p.cos + at, c);
  load_values<N>(p.sin + at, s);
}

// The lane's part of a head of the projection: of the q heads, then the k heads, then the v heads.
template <int N>
QWEN3_DEVICE void load_head(const QkNormRope& p, int64_t row, int head, float (&v)[N]) {
  const int n_heads = p.heads.n_q_heads + 2 * p.heads.n_kv_heads;
  load_values<N>(p.qkv + (row * n_heads + head) * (N * 32) + thread_index().x % 32 * N, v);
}

}  // namespace qwen3::cuda
