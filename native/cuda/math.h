#pragma once

#include "core/math.h"
#include "cuda/ptx/ptx.h"

namespace qwen3::cuda {

// Sum over a warp, the same in every lane and in the same order always.
QWEN3_DEVICE float warp_sum(float x) {
  QWEN3_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// x / (1 + e^-x); e^-x = 2^(-x log2 e).
QWEN3_DEVICE float silu(float x) {
  return divide_approx(x, 1.0f + exp2_approx(-1.44269504f * x));
}

}  // namespace qwen3::cuda
