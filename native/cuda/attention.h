#pragma once

// What the attention kernels share: tiles of the paged cache in shared memory, scores, the online softmax and the
// product with V, by mma.sync on 16 rows per warp. A block of the cache is 64 keys of one head, contiguous: one key
// tile.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace attention {

constexpr int kKeys = 64;

// Element offset of a 16-byte chunk of a row of kHeadDim values. Rows of 128 bytes and more: chunk ^ row % 8; of 64
// bytes, where two rows share the banks: chunk ^ row / 2 % 4. Eight rows of one chunk then lie in different banks.
template <int kHeadDim>
QWEN3_DEVICE int at(int row, int chunk) {
  return row * kHeadDim + (kHeadDim >= 64 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 8;
}

// Copies 64 rows of K or V; those beyond n_keys are zero: what the cache holds there may be anything, NaN included. But
// the first n_left of those are left as they are. kOnce: no other block reads them.
template <int kHeadDim, int kThreads, bool kOnce = false>
QWEN3_DEVICE void copy_keys(Shared<Bf16> to, const Bf16* block, int n_keys, int thread, int n_left = 0) {
  constexpr int kChunks = kHeadDim / 8;
  QWEN3_UNROLL_8
  for (int i = thread; i < kKeys * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = row < n_keys;
    if (!valid && row < n_keys + n_left) continue;
    const Bf16* const from = block + (valid ? i * 8 : 0);
    if constexpr (kOnce) {
      cp_async16_once(to + at<kHeadDim>(row, chunk), from, valid ? 16 : 0);
    } else {
      cp_async16(to + at<kHeadDim>(row, chunk), from, valid ? 16 : 0);
    }
  }
}

// 16 rows of one warp. Lane 4 g + t holds rows g and g + 8.
template <int kHeadDim>
struct Rows {
  uint32_t q[kHeadDim / 16][4];
  float o[kHeadDim / 8][4];
  float largest[2];  // score, before the scale
  float sum[2];      // of the lane's weights; joined over the 4 lanes of a row at the end
  QWEN3_DEVICE void clear() {
    QWEN3_UNROLL
    for (int j = 0; j < kHeadDim / 8; ++j) {
      QWEN3_UNROLL
      for (int i = 0; i < 4; ++i) o[j][i] = 0;
    }
    QWEN3_UNROLL
    for (int h = 0; h < 2; ++h) largest[h] = bits_as_f32(0xff800000u), sum[h] = 0;
  }
};

// s = q k^T for the 64 keys.
template <int kHeadDim>
QWEN3_DEVICE void scores(const Rows<kHeadDim>& rows, Shared<Bf16> keys, float (&s)[8][4]) {
  const int lane = thread_index().x % 32;
  QWEN3_UNROLL
  for (int j = 0; j < 8; ++j) {
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) s[j][i] = 0;
  }
  QWEN3_UNROLL
  for (int step = 0; step < kHeadDim / 16; ++step) {
    QWEN3_UNROLL
    for (int j = 0; j < 4; ++j) {
      uint32_t b[4];
      ldmatrix_x4(b, keys + at<kHeadDim>(j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
      mma_bf16(s[j * 2], rows.q[step], b0);
      mma_bf16(s[j * 2 + 1], rows.q[step], b1);
    }
  }
}

// Key key0 + 8 j + 2 t + i % 2 is visible to a row up to its position.
QWEN3_DEVICE void mask(float (&s)[8][4], int key0, const int (&position)[2]) {
  const int t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int j = 0; j < 8; ++j) {
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (key0 + j * 8 + t * 2 + i % 2 > position[i / 2]) s[j][i] = bits_as_f32(0xff800000u);
    }
  }
}

// Online softmax (M. Milakov, N. Gimelshein 2018; FlashAttention-2, T. Dao 2023): s becomes weights relative to the new
// largest score, what is summed so far is rescaled. scale: log2(e) / sqrt(head_dim).
template <int kHeadDim>
QWEN3_DEVICE void soften(Rows<kHeadDim>& rows, float (&s)[8][4], float scale) {
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    float largest = rows.largest[h];
    QWEN3_UNROLL
    for (int j = 0; j < 8; ++j) largest = maximum(largest, maximum(s[j][h * 2], s[j][h * 2 + 1]));
    largest = maximum(largest, shuffle_xor(largest, 1));
    largest = maximum(largest, shuffle_xor(largest, 2));
    // A row that has seen nothing yet keeps weights of 0 rather than infinity minus infinity.
    const float base = largest == bits_as_f32(0xff800000u) ? 0.0f : largest * scale;
    const float shrink = exp2_approx(rows.largest[h] * scale - base);
    rows.largest[h] = largest;
    float sum = 0;
    QWEN3_UNROLL
    for (int j = 0; j < 8; ++j) {
      QWEN3_UNROLL
      for (int i = h * 2; i < h * 2 + 2; ++i) {
        s[j][i] = exp2_approx(fma(s[j][i], scale, -base));
        sum += s[j][i];
      }
    }
    rows.sum[h] = rows.sum[h] * shrink + sum;
    QWEN3_UNROLL
    for (int j = 0; j < kHeadDim / 8; ++j) rows.o[j][h * 2] *= shrink, rows.o[j][h * 2 + 1] *= shrink;
  }
}

// o += p v. The accumulators of the scores are, as they stand, the A fragments of this product.
template <int kHeadDim>
QWEN3_DEVICE void accumulate(Rows<kHeadDim>& rows, const float (&p)[8][4], Shared<Bf16> values) {
  const int lane = thread_index().x % 32;
  QWEN3_UNROLL
  for (int step = 0; step < 4; ++step) {
    const uint32_t a[4] = {pack_bf16(p[step * 2][0], p[step * 2][1]), pack_bf16(p[step * 2][2], p[step * 2][3]),
                           pack_bf16(p[step * 2 + 1][0], p[step * 2 + 1][1]),
                           pack_bf16(p[step * 2 + 1][2], p[step * 2 + 1][3])};
    QWEN3_UNROLL
    for (int j = 0; j < kHeadDim / 16; ++j) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, values + at<kHeadDim>(step * 16 + lane % 16, j * 2 + lane / 16));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
      mma_bf16(rows.o[j * 2], a, b0);
      mma_bf16(rows.o[j * 2 + 1], a, b1);
    }
  }
}

// Sums of weights of rows g and g + 8 over the 4 lanes that share them.
template <int kHeadDim>
QWEN3_DEVICE void join_sums(Rows<kHeadDim>& rows) {
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    rows.sum[h] += shuffle_xor(rows.sum[h], 1);
    rows.sum[h] += shuffle_xor(rows.sum[h], 2);
  }
}

// The block of the cache that holds a sequence's keys [64 i, 64 i + 64) of one head. table: the sequence's.
QWEN3_DEVICE int64_t block_offset(const int32_t* table, int i, const HeadShape& heads, int kv_head) {
  const int64_t block = load(table + i);
  return (block * heads.n_kv_heads + kv_head) * kKeys * heads.head_dim;
}

QWEN3_DEVICE float score_scale(int head_dim) {
  return 1.44269504f / square_root(static_cast<float>(head_dim));
}

// Partial results are padded to whole sectors: head_dim values, largest score in log2 units, sum of weights.
QWEN3_DEVICE int partial_stride(int head_dim) {
  return head_dim + 8;
}

}  // namespace attention
}  // namespace qwen3::cuda
