#pragma once

// The weighted sum of the experts' products, as part of kernels: of its own (moe.cu) and behind the product that brings
// them (moe_stream_hopper.cu). Both have the same bits.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {

// Four neighbouring values.
QWEN3_DEVICE Float4 load4(const float* p) {
  return load(reinterpret_cast<const Float4*>(p));
}
QWEN3_DEVICE Float4 load4(const Bf16* p) {
  const Words2 w = load(reinterpret_cast<const Words2*>(p));
  return {bf16_low(w.x), bf16_high(w.x), bf16_low(w.y), bf16_high(w.y)};
}

// Four columns of a row: out += sum over ranks of shares[rank] * products[rank * stride], in rank order. Eight ranks'
// loads are on their way together: one after the other, each would be a trip to L2.
template <class T>
QWEN3_DEVICE void add_products(const T* products, int64_t stride, const float* shares, int top_k, float* out) {
  constexpr int kAtOnce = 8;
  auto* const to = reinterpret_cast<Float4*>(out);
  const Float4 old = load(to);
  Float4 sum{0, 0, 0, 0};
  for (int first = 0; first < top_k; first += kAtOnce) {
    Float4 v[kAtOnce];
    float share[kAtOnce];
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const int rank = first + u < top_k ? first + u : top_k - 1;
      share[u] = load(shares + rank);
      v[u] = load4(products + rank * stride);
    }
    QWEN3_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      if (first + u >= top_k) break;
      sum = {fma(share[u], v[u].x, sum.x), fma(share[u], v[u].y, sum.y), fma(share[u], v[u].z, sum.z),
             fma(share[u], v[u].w, sum.w)};
    }
  }
  store(to, {old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w});
}

}  // namespace qwen3::cuda
