#pragma once

// QK-Norm and RoPE of one head of one row, as part of kernels: qk_norm_rope.cu, and the attention of steps that only
// decode (attention_decode.cu). Roundings are spelled out: the same bits in both.

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
