#pragma once

// N consecutive values of a lane, 1, 2 or a multiple of 4, in vectors of 16, 8 or 4 bytes.

#include "cuda/math.h"
#include "cuda/ptx/ptx.h"

namespace qwen3::cuda {

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
template <int N>
QWEN3_DEVICE void store_bf16(Shared<Bf16> p, const float (&v)[N]) {
  if constexpr (N == 4) {
    p.as<Words2>().store(0, {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])});
  } else if constexpr (N == 2) {
    p.as<uint32_t>().store(0, pack_bf16(v[0], v[1]));
  } else {
    p.store(0, static_cast<Bf16>(pack_bf16(v[0], 0.0f)));
  }
}

}  // namespace qwen3::cuda
