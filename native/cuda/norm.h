#pragma once

// RMSNorm in parts, for the kernels that take it in: x / sqrt(mean x^2 + eps) * weight. Every rounding is spelled out
// (fma where the compiler could choose), and the sum of squares of a row always runs over vectors of 4 along a thread's
// own, the warp and the warps of a block of kNormThreads: the same bits wherever a row is normalised.

#include "cuda/kernels.h"
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

// --- whole rows, into shared memory ---

// A product's own norm: rows of x (f32) that it normalises for itself.
constexpr int kMostNormRows = 4;
// Where: the norm's weight (f32) from byte weight_at on, then rows of bf16, 64 bytes apart in the banks, so that the
// two that eight lanes read do not meet.
struct NormLayout {
  int weight_at, rows_at, stride;  // bytes, bytes, elements
};
inline NormLayout norm_layout(int weight_at, int k) {
  return {weight_at, weight_at + (k * 4 + 127) / 128 * 128, (k + 63) / 64 * 64 + 32};
}
inline int norm_bytes(const NormLayout& layout, int n_rows) {
  return layout.rows_at + n_rows * layout.stride * 2;
}

// Ahead of grid_dependency_wait: each thread copies what it will read itself.
QWEN3_DEVICE void fetch_norm_weight(const float* weight, const NormLayout& layout, int k) {
  const auto to = shared_memory<Bf16>(layout.weight_at);
  for (int i = thread_index().x; i < k / 4; i += kNormThreads) cp_async16(to + i * 8, weight + i * 4);
  cp_async_commit();
}

// Rows row_of(0), row_of(1), ... of x by kNormThreads threads, thread 0 to kNormThreads - 1 of a block. weight: what
// fetch_norm_weight copied. partial: [kMostNormRows, kNormWarps]. sync() is their barrier; put(r, i, v) takes values 4
// i to 4 i + 3 of row r. The caller's barrier makes visible what that stores.
template <class RowOf, class Sync, class Put>
QWEN3_DEVICE void normalise_rows(const float* x, RowOf row_of, int n_rows, int k, float eps, Shared<Float4> weight,
                                 Shared<float> partial, Sync sync, Put put) {
  const int thread = thread_index().x;
  const Float4* from[kMostNormRows];
  float sum[kMostNormRows] = {};
  QWEN3_UNROLL
  for (int r = 0; r < kMostNormRows; ++r) {
    from[r] = reinterpret_cast<const Float4*>(x + (r < n_rows ? row_of(r) * k : 0));
  }
  for (int i = thread; i < k / 4; i += kNormThreads) {
    QWEN3_UNROLL
    for (int r = 0; r < kMostNormRows; ++r) {
      if (r < n_rows) sum[r] = add_squares(sum[r], load(from[r] + i));
    }
  }
  QWEN3_UNROLL
  for (int r = 0; r < kMostNormRows; ++r) {
    sum[r] = warp_sum(sum[r]);
    if (thread % 32 == 0) partial.store(r * kNormWarps + thread / 32, sum[r]);
  }
  cp_async_wait<0>();
  sync();
  QWEN3_UNROLL
  for (int r = 0; r < kMostNormRows; ++r) {
    if (r >= n_rows) continue;
    const float scale = norm_scale(partial + r * kNormWarps, k, eps);
    for (int i = thread; i < k / 4; i += kNormThreads) {
      put(r, i, normalise(load(from[r] + i), scale, weight.load(i)));  // the second time from L1
    }
  }
}

// The same for a whole block, into rows that lie as the layout has them.
template <class RowOf>
QWEN3_DEVICE void normalise_rows(const float* x, RowOf row_of, int n_rows, int k, float eps, const NormLayout& layout,
                                 Shared<float> partial) {
  const auto to = shared_memory<Bf16>(layout.rows_at);
  normalise_rows(
      x, row_of, n_rows, k, eps, shared_memory<Float4>(layout.weight_at), partial, [] { block_sync(); },
      [&](int r, int i, const Words2& v) { (to + r * layout.stride).as<Words2>().store(i, v); });
}

}  // namespace qwen3::cuda
