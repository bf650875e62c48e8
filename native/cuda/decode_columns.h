#pragma once

// The arithmetic of decode attention (attention_decode.cu): scores, softmax and the product with V of a few q heads by
// one warp, and the join of the splits of a row.

#include "cuda/attention.h"
#include "cuda/vectors.h"

namespace qwen3::cuda::attention {

constexpr int kWarps = 2;

// Normalised q heads, behind the buffers; eight of them are 4 banks apart.
template <int kHeadDim>
constexpr int kQueryStride = kHeadDim + 8;

// Up to 8 kTiles q heads of one KV head, as columns: scores are [keys, heads] = K Q^T and outputs [dimensions, heads] =
// V^T P^T, so that a product of 16 keys costs eight heads and not sixteen. Lane 4 g + t holds rows g and g + 8 of a
// product, heads 2 t and 2 t + 1 of eight.
template <int kHeadDim, int kTiles>
struct Columns {
  uint32_t q[kTiles][kHeadDim / 16][2];
  float o[kTiles][kHeadDim / 16][4];
  float largest[kTiles][2];  // score, before the scale
  float sum[kTiles][2];      // of the lane's weights; joined over the 8 lanes of a head at the end
  QWEN3_DEVICE void clear() {
    QWEN3_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      QWEN3_UNROLL
      for (int j = 0; j < kHeadDim / 16; ++j) {
        QWEN3_UNROLL
        for (int i = 0; i < 4; ++i) o[n][j][i] = 0;
      }
      QWEN3_UNROLL
      for (int h = 0; h < 2; ++h) largest[n][h] = bits_as_f32(0xff800000u), sum[n][h] = 0;
    }
  }
  // Two neighbouring columns of a head: pair(head, column).
  template <class Pair>
  QWEN3_DEVICE void load_q(int group, Pair pair) {
    const int g = thread_index().x % 32 / 4, t = thread_index().x % 4;
    QWEN3_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      QWEN3_UNROLL
      for (int step = 0; step < kHeadDim / 16; ++step) {
        QWEN3_UNROLL
        for (int r = 0; r < 2; ++r) {
          const int head = n * 8 + g;
          q[n][step][r] = head < group ? pair(head, step * 16 + t * 2 + r * 8) : 0u;
        }
      }
    }
  }
  // s[n][m]: keys 16 m .. 16 m + 15, heads 8 n .. 8 n + 7.
  QWEN3_DEVICE void scores(Shared<Bf16> keys, float (&s)[kTiles][4][4]) const {
    const int lane = thread_index().x % 32;
    QWEN3_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      QWEN3_UNROLL
      for (int i = 0; i < 16; ++i) s[n][i / 4][i % 4] = 0;
    }
    QWEN3_UNROLL
    for (int step = 0; step < kHeadDim / 16; ++step) {
      QWEN3_UNROLL
      for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
        ldmatrix_x4(a, keys + at<kHeadDim>(m * 16 + lane % 16, step * 2 + lane / 16));
        QWEN3_UNROLL
        for (int n = 0; n < kTiles; ++n) mma_bf16(s[n][m], a, q[n][step]);
      }
    }
  }
  QWEN3_DEVICE static void mask(float (&s)[kTiles][4][4], int key0, int key_end) {
    const int g = thread_index().x % 32 / 4;
    QWEN3_UNROLL
    for (int i = 0; i < kTiles * 16; ++i) {
      if (key0 + i / 4 % 4 * 16 + i % 4 / 2 * 8 + g >= key_end) s[i / 16][i / 4 % 4][i % 4] = bits_as_f32(0xff800000u);
    }
  }
  // As soften() of attention.h, the keys of a head being in 8 lanes.
  QWEN3_DEVICE void soften(float (&s)[kTiles][4][4], float scale) {
    QWEN3_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      QWEN3_UNROLL
      for (int h = 0; h < 2; ++h) {
        float next = largest[n][h];
        QWEN3_UNROLL
        for (int m = 0; m < 4; ++m) next = maximum(next, maximum(s[n][m][h], s[n][m][h + 2]));
        QWEN3_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) next = maximum(next, shuffle_xor(next, mask));
        const float base = next == bits_as_f32(0xff800000u) ? 0.0f : next * scale;
        const float shrink = exp2_approx(largest[n][h] * scale - base);
        largest[n][h] = next;
        float added = 0;
        QWEN3_UNROLL
        for (int m = 0; m < 4; ++m) {
          QWEN3_UNROLL
          for (int i = h; i < 4; i += 2) {
            s[n][m][i] = exp2_approx(fma(s[n][m][i], scale, -base));
            added += s[n][m][i];
          }
        }
        sum[n][h] = sum[n][h] * shrink + added;
        QWEN3_UNROLL
        for (int j = 0; j < kHeadDim / 16; ++j) o[n][j][h] *= shrink, o[n][j][h + 2] *= shrink;
      }
    }
  }
  // Weights [keys, heads] become the B fragments of the product: an 8 x 8 tile of pairs is turned.
  QWEN3_DEVICE static uint32_t turn(float a, float b) {
    const int lane = thread_index().x % 32, from = lane % 4 * 8 + lane / 8, half = lane / 4 % 2 * 16;
    const uint32_t pair = pack_bf16(a, b);
    const uint32_t low = shuffle(pair, from) >> half, high = shuffle(pair, from + 4) >> half;
    return (low & 0xffffu) | (high << 16);
  }
  QWEN3_DEVICE void accumulate(const float (&p)[kTiles][4][4], Shared<Bf16> values) {
    const int lane = thread_index().x % 32;
    QWEN3_UNROLL
    for (int m = 0; m < 4; ++m) {
      uint32_t b[kTiles][2];
      QWEN3_UNROLL
      for (int n = 0; n < kTiles; ++n) b[n][0] = turn(p[n][m][0], p[n][m][1]), b[n][1] = turn(p[n][m][2], p[n][m][3]);
      QWEN3_UNROLL
      for (int j = 0; j < kHeadDim / 16; ++j) {
        uint32_t a[4];
        ldmatrix_x4_trans(a, values + at<kHeadDim>(m * 16 + lane / 16 * 8 + lane % 8, j * 2 + lane / 8 % 2));
        QWEN3_UNROLL
        for (int n = 0; n < kTiles; ++n) mma_bf16(o[n][j], a, b[n]);
      }
    }
  }
  // For the join of the warps: outputs and what they are relative to.
  QWEN3_DEVICE void leave(Shared<float> outputs, int stride, Shared<float> largest_to, Shared<float> sum_to,
                          float scale) {
    const int g = thread_index().x % 32 / 4, t = thread_index().x % 4;
    QWEN3_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      QWEN3_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int head = n * 8 + t * 2 + h;
        QWEN3_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) sum[n][h] += shuffle_xor(sum[n][h], mask);
        QWEN3_UNROLL
        for (int j = 0; j < kHeadDim / 16; ++j) {
          outputs.store(head * stride + j * 16 + g, o[n][j][h]);
          outputs.store(head * stride + j * 16 + g + 8, o[n][j][h + 2]);
        }
        if (g == 0) largest_to.store(head, largest[n][h] * scale), sum_to.store(head, sum[n][h]);
      }
    }
  }
};

// --- the splits of a row ---

// Where the results of the q heads of one KV head of one row lie, and where they go.
struct SplitRow {
  float* results;  // of split 0, the first q head: [n_splits, n_q_heads, kHeadDim + 8]
  Bf16* out;       // [group, kHeadDim]
  int group;
  int64_t stride;  // between splits
};

// out = sum_i 2^(m_i - m) o_i / sum_i 2^(m_i - m) l_i over the n splits, a warp for kHeads q heads at a time, kSplits
// results of each on their way to it; with more heads than one these are all that there are. A lane holds the columns
// [N lane, N lane + N).
template <int kHeadDim, int kSplits, int kHeads>
QWEN3_DEVICE void join_splits(const SplitRow& row, int n) {
  constexpr int N = kHeadDim / 32, kHalves = kHeads == 1 ? 2 : 1;
  static_assert(kMostSplits == 64 && kSplits <= 32);
  const int lane = thread_index().x % 32;
  for (int first = thread_index().x / 32; first < row.group; first += kWarps * kHeads) {
    const auto results = [&](int h, int i) {
      return row.results + row.stride * i + (first + h * kWarps) * partial_stride(kHeadDim);
    };
    Float2 mine[kHeads][kHalves];  // of results `lane` and 32 + `lane`
    float v[kHeads][kSplits][N], o[kHeads][N] = {};
    const auto fetch = [&](int i) {
      QWEN3_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        QWEN3_UNROLL
        for (int u = 0; u < kSplits; ++u) {
          QWEN3_UNROLL
          for (int j = 0; j < N; ++j) v[h][u][j] = 0;
          if (first + h * kWarps < row.group && i + u < n) load_values<N>(results(h, i + u) + lane * N, v[h][u]);
        }
      }
    };
    QWEN3_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      QWEN3_UNROLL
      for (int half = 0; half < kHalves; ++half) {
        const int i = half * 32 + lane;
        mine[h][half] = {bits_as_f32(0xff800000u), 0};
        if (first + h * kWarps < row.group && i < n)
          mine[h][half] = load(reinterpret_cast<const Float2*>(results(h, i) + kHeadDim));
      }
    }
    fetch(0);  // together with what they are relative to
    float weights[kHeads][kHalves], sum[kHeads];
    QWEN3_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float largest = mine[h][0].x;
      if constexpr (kHalves == 2) largest = maximum(largest, mine[h][1].x);
      QWEN3_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) largest = maximum(largest, shuffle_xor(largest, mask));
      QWEN3_UNROLL
      for (int half = 0; half < kHalves; ++half) weights[h][half] = exp2_approx(mine[h][half].x - largest);
      if constexpr (kHalves == 2) {
        sum[h] = warp_sum(mine[h][0].y * weights[h][0] + mine[h][1].y * weights[h][1]);
      } else {
        sum[h] = warp_sum(mine[h][0].y * weights[h][0]);
      }
    }
    for (int i = 0;;) {
      QWEN3_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const float weight = i < 32 ? weights[h][0] : weights[h][kHalves - 1];
        QWEN3_UNROLL
        for (int u = 0; u < kSplits; ++u) {
          const float w = shuffle(weight, i % 32 + u);
          QWEN3_UNROLL
          for (int j = 0; j < N; ++j) o[h][j] += w * v[h][u][j];
        }
      }
      i += kSplits;
      if (kHeads > 1 || i >= n) break;
      fetch(i);
    }
    QWEN3_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const int r = first + h * kWarps;
      if (r >= row.group) break;
      QWEN3_UNROLL
      for (int j = 0; j < N; ++j) o[h][j] /= sum[h];
      store_bf16<N>(row.out + r * kHeadDim + lane * N, o[h]);
    }
  }
}

// Few splits: of several heads together, as each head by itself is a trip to the L2. kFetched: a lane's loads at once.
template <int kHeadDim, int kFetched>
QWEN3_DEVICE void join_row(const SplitRow& row, int n) {
  if (n <= 4) {
    join_splits<kHeadDim, 4, kFetched / 4>(row, n);
  } else if (n <= 8) {
    join_splits<kHeadDim, 8, kFetched / 8>(row, n);
  } else {
    join_splits<kHeadDim, kFetched, 1>(row, n);
  }
}

}  // namespace qwen3::cuda::attention
