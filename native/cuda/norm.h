#pragma once

// RMSNorm in parts, for the kernels that take it in: x / sqrt(mean x^2 + eps) * weight. Every rounding is spelled out
// (fma where the compiler could choose), and the sum of squares of a row always runs over vectors of 4 along a thread's
// own, the warp and the warps of a block of kNormThreads: the same bits wherever a row is normalised.

#include "cuda/math.h"

namespace qwen3::cuda {

constexpr int kNormThreads = 256, kNormWarps = kNormThreads / 32;

// sum + |v|^2.
QWEN3_DEVICE float add_squares(float sum, const Float4& v) {
  return sum + (fma(v.x, v.x, v.y * v.y) + fma(v.z, v.z, v.w * v.w));
}

// partial: the warps' sums of one row, in shared memory.
QWEN3_DEVICE float norm_scale(Shared<float> partial, int n, float eps) {
  float sum = 0;
  for (int w = 0; w < kNormWarps; ++w) sum += partial.load(w);
  return 1.0f / square_root(sum / static_cast<float>(n) + eps);
}

// Four neighbours as bf16.
QWEN3_DEVICE Words2 normalise(const Float4& v, float scale, const Float4& weight) {
  return {pack_bf16(v.x * scale * weight.x, v.y * scale * weight.y),
          pack_bf16(v.z * scale * weight.z, v.w * scale * weight.w)};
}

}  // namespace qwen3::cuda
