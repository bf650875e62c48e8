#pragma once

// What the routers share (moe_route.cu: many rows; moe_route_few.cu): the order of a score's sum, and the selection.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace route {

// --- scores ---
//
// The order along k is one whatever the number of rows: chunks of 32 belong to 8 classes in turn; a score is the sum of
// the classes' sums in their order, each over its chunks ascending. Within a chunk the matrix instructions take k in a
// permuted order, the same in both operands, so that a lane's 16 bytes of a row are its fragments of two of them.

constexpr int kThreads = 256, kWarps = kThreads / 32, kMaxExperts = kMoeMostExperts;
constexpr int kClasses = 8, kChunk = 32;

// d += the first or the second half of the chunk of 16 rows times that of 8 experts; low, high: of rows lane / 4 and
// lane / 4 + 8.
template <int kHalf>
QWEN3_DEVICE void multiply_half(float (&d)[4], const Words4& low, const Words4& high, const Words4& w) {
  const uint32_t a[4] = {kHalf ? low.z : low.x, kHalf ? high.z : high.x, kHalf ? low.w : low.y,
                         kHalf ? high.w : high.y};
  const uint32_t b[2] = {kHalf ? w.z : w.x, kHalf ? w.w : w.y};
  mma_bf16(d, a, b);
}

// --- selection ---

// One warp: softmax and selection of kRows rows at once, `row` on, the first `n` of which count; their scores are in
// shared memory, `stride` apart. A lane has N of the scores of each. put(i, id, share): of the i-th assignment, row *
// top_k + rank.
template <int kRows, int N, class Put>
QWEN3_DEVICE void select_experts(Shared<float> scores, int stride, int n, const MoeShape& shape, int64_t row, Put put) {
  const int lane = thread_index().x % 32;
  const float none = bits_as_f32(0xff800000u);
  // Weights as numbers of the same order: their bits and one; 0 is what cannot be chosen, any more.
  uint32_t keys[kRows][N];
  float total[kRows], chosen[kRows], mine[kRows];  // lane r keeps rank r
  int mine_id[kRows];
  QWEN3_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float p[N], largest = none;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      const int e = j * 32 + lane;
      p[j] = e < shape.n_experts ? scores.load(r * stride + e) : none;
      largest = maximum(largest, p[j]);
    }
    QWEN3_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) largest = maximum(largest, shuffle_xor(largest, mask));
    total[r] = 0;
    QWEN3_UNROLL
    for (int j = 0; j < N; ++j) {
      const float weight = p[j] == none ? 0.0f : exp2_approx((p[j] - largest) * 1.44269504f);
      keys[r][j] = p[j] == none ? 0 : f32_as_bits(weight) + 1;
      total[r] += weight;
    }
    total[r] = warp_sum(total[r]);
    chosen[r] = mine[r] = 0, mine_id[r] = 0;
  }
  for (int rank = 0; rank < shape.top_k; ++rank) {
    QWEN3_UNROLL
    for (int r = 0; r < kRows; ++r) {
      uint32_t best = 0, id = 0;
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (keys[r][j] > best) best = keys[r][j], id = static_cast<uint32_t>(j * 32 + lane);
      }
      const uint32_t top = warp_maximum(best);
      const uint32_t lowest = kMaxExperts - warp_maximum(best == top ? kMaxExperts - id : 0);  // of those that tie
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) {
        if (lowest == static_cast<uint32_t>(j * 32 + lane)) keys[r][j] = 0;
      }
      const float weight = bits_as_f32(top - 1);
      if (lane == rank) mine[r] = weight, mine_id[r] = static_cast<int>(lowest);
      chosen[r] += weight;
    }
  }
  QWEN3_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if (r >= n || lane >= shape.top_k) continue;
    put((row + r) * shape.top_k + lane, mine_id[r], mine[r] / (shape.norm_topk_prob ? chosen[r] : total[r]));
  }
}

}  // namespace route
}  // namespace qwen3::cuda
