#pragma once

// out = x W^T for few rows at memory speed, as part of kernels: the dense layers (linear_stream.cu) and the experts.

#include "cuda/gemm.h"
#include "cuda/norm.h"

namespace qwen3::cuda {
namespace stream {

// A block takes 16 rows of the weight; its 8 warps take every 8th chunk of 32 k each, so that 8 x 4 loads of 16 bytes
// per lane are on their way: 16 KB a warp set, several blocks a multiprocessor. Partial sums are joined in shared
// memory in the order of the warps: the order along k is one, whatever the number of rows.
// Where that makes fewer blocks than there are multiprocessors (o and down of a small model), a block takes 8 rows,
// half of the mma's, and 12 loads per lane: 3,072 of k at once. The order along k is the same.
constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kStride = 20;  // of 16 sums in shared memory: 2 rows are 8 banks apart
template <int kTiles>
constexpr int kSharedBytes = kWarps* kTiles * 8 * kStride * 4;

// The weight's 16 rows of a block: mma takes them as A, whose 16 x 16 fragments are loaded straight from memory, 16
// bytes of k per lane, by taking k in the same permuted order in both operands. What fetch() has asked for may be on
// its way while the rows of x are not there yet: no kernel writes weights.
template <int kRows = 16>
struct Weights {
  static constexpr int kUnroll = kRows == 16 ? 4 : 12;
  static constexpr bool kTwo = kRows == 16;
  const Bf16* low;  // of the row that the lane loads; the second one is 8 behind
  int64_t high;
  bool low_valid, high_valid;
  int k;
  Words4 w0[kUnroll], w1[kTwo ? kUnroll : 1];
  QWEN3_DEVICE Weights(const Bf16* weight, int n, int k_size, int n0) {
    const int row = n0 + thread_index().x % 32 / 4;
    low = weight + static_cast<int64_t>(row) * k_size, high = static_cast<int64_t>(8) * k_size;
    low_valid = row < n, high_valid = row + 8 < n, k = k_size;
  }
  // Chunks from `begin` on: of this warp, the lane's part.
  QWEN3_DEVICE void fetch(int begin) {
    const Words4 zero{0, 0, 0, 0};
    QWEN3_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const int at = begin + u * kWarps * 32 + thread_index().x % 4 * 8;
      w0[u] = low_valid && at < k ? load_stream(reinterpret_cast<const Words4*>(low + at)) : zero;
      if constexpr (kTwo) {
        w1[u] = high_valid && at < k ? load_stream(reinterpret_cast<const Words4*>(low + high + at)) : zero;
      }
    }
  }
  QWEN3_DEVICE void fetch_first() { fetch(thread_index().x / 32 * 32); }
};

// Rows of x as they lie in memory.
template <int kTiles>
struct GlobalRows {
  static constexpr bool kFar = true;
  const Bf16* from[kTiles];
  bool valid[kTiles];
  QWEN3_DEVICE GlobalRows(const Bf16* x, const TileRows& rows, int k) {
    QWEN3_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      const int row = j * 8 + thread_index().x % 32 / 4;
      valid[j] = row < rows.count;
      from[j] = x + (valid[j] ? rows.in_row(row) * k : 0);
    }
  }
  QWEN3_DEVICE Words4 load(int j, int at) const { return cuda::load(reinterpret_cast<const Words4*>(from[j] + at)); }
};

// acc: the lane's part of the products of its warp's chunks, whose first have been fetched. x comes from L2 mostly, and
// a trip there is as long as two dozen products: its pieces are asked for together, not each ahead of its own product.
template <int kTiles, int kRows, class Rows>
QWEN3_DEVICE void multiply(Weights<kRows>& w, const Rows& x, float (&acc)[kTiles][4]) {
  constexpr int kUnroll = Weights<kRows>::kUnroll, kTogether = Rows::kFar && kTiles <= 2 ? kUnroll : 1;
  const Words4 zero{0, 0, 0, 0};
  for (int begin = thread_index().x / 32 * 32; begin < w.k;) {
    QWEN3_UNROLL
    for (int first_u = 0; first_u < kUnroll; first_u += kTogether) {
      Words4 v[kTogether][kTiles];
      QWEN3_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int at = begin + (first_u + i) * kWarps * 32 + thread_index().x % 4 * 8;
        QWEN3_UNROLL
        for (int j = 0; j < kTiles; ++j) v[i][j] = x.valid[j] && at < w.k ? x.load(j, at) : zero;
      }
      QWEN3_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int u = first_u + i;
        const Words4 high = kRows == 16 ? w.w1[kRows == 16 ? u : 0] : zero;
        const uint32_t first[4] = {w.w0[u].x, high.x, w.w0[u].y, high.y};
        const uint32_t second[4] = {w.w0[u].z, high.z, w.w0[u].w, high.w};
        QWEN3_UNROLL
        for (int j = 0; j < kTiles; ++j) {
          const uint32_t b0[2] = {v[i][j].x, v[i][j].y}, b1[2] = {v[i][j].z, v[i][j].w};
          mma_bf16(acc[j], first, b0);
          mma_bf16(acc[j], second, b1);
        }
      }
    }
    begin += kWarps * kUnroll * 32;
    if (begin < w.k) w.fetch(begin);
  }
}

// Joins the warps' sums and writes them: a thread two columns of a row at a time.
template <int kTiles, int kRows = 16>
struct Results {
  static constexpr int kMost = (kTiles * 4 * kRows + kThreads - 1) / kThreads;
  const TileRows& rows;
  const Target& to;
  int n0;
  // kAddF32: what the sums are added to, asked for ahead of the product where registers are left.
  static constexpr bool kAhead = kTiles <= 4;
  Float2 old[kMost] = {};

  QWEN3_DEVICE bool gated() const { return to.output == Output::kSiluMul; }
  // The i-th pair of the thread; false: it has none.
  QWEN3_DEVICE bool pair(int i, int& row, int& column) const {
    const int pairs = gated() ? 4 : kRows / 2, at = i * kThreads + thread_index().x, index = at / pairs;
    // Rows in the order 0 4 2 6 1 5 3 7: those of a half warp are 16 or 8 banks apart.
    row = index / 8 * 8 + (index & 1) * 4 + (index & 2) + (index >> 2 & 1), column = at % pairs * 2;
    return at < kTiles * 8 * pairs && row < rows.count && n0 + (gated() ? 2 * column : column) < to.n;
  }
  QWEN3_DEVICE Results(const TileRows& r, const Target& t, int first) : rows(r), to(t), n0(first) {
    if constexpr (kAhead) {
      QWEN3_UNROLL
      for (int i = 0; i < kMost; ++i) {
        int row, column;
        if (to.output == Output::kAddF32 && pair(i, row, column)) {
          const auto* out = static_cast<const float*>(to.out) + rows.out_row(row) * to.n + n0 + column;
          old[i] = load(reinterpret_cast<const Float2*>(out));
        }
      }
    }
  }
  QWEN3_DEVICE void write(const float (&acc)[kTiles][4]) const {
    const int thread = thread_index().x, warp = thread / 32, group = thread % 32 / 4, in_group = thread % 4;
    const auto sums = shared_memory<float>(0);  // [kWarps, 8 kTiles rows, kStride]
    QWEN3_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      QWEN3_UNROLL
      for (int i = 0; i < kRows / 4; ++i) {
        sums.store((warp * kTiles * 8 + j * 8 + in_group * 2 + i % 2) * kStride + group + i / 2 * 8, acc[j][i]);
      }
    }
    block_sync();
    // A thread writes two columns of a row.
    QWEN3_UNROLL
    for (int i = 0; i < kMost; ++i) {
      int row, column;
      if (!pair(i, row, column)) continue;
      float v[2] = {}, u[2] = {};
      for (int w = 0; w < kWarps; ++w) {
        const auto at = (sums + (w * kTiles * 8 + row) * kStride + column).template as<Float2>();
        const Float2 sum = at.load();
        v[0] += sum.x, v[1] += sum.y;
        if (!gated()) continue;
        const Float2 up = at.load(4);
        u[0] += up.x, u[1] += up.y;
      }
      if (kAhead && to.output == Output::kAddF32) {
        auto* p = static_cast<float*>(to.out) + rows.out_row(row) * to.n + n0 + column;
        store(reinterpret_cast<Float2*>(p), {v[0] + old[i].x, v[1] + old[i].y});
      } else {
        write_pair(to, rows.out_row(row), gated() ? n0 / 2 + column : n0 + column, v[0], v[1], u[0], u[1]);
      }
    }
  }
};

}  // namespace stream

// Weight rows n0 to n0 + 15 times up to 8 kTiles rows of x.
template <int kTiles>
QWEN3_DEVICE void stream_rows(const Bf16* x, const Bf16* weight, const TileRows& rows, int k, int n0,
                              const Target& to) {
  stream::Weights<> weights(weight, to.n, k, n0);
  weights.fetch_first();
  const stream::GlobalRows<kTiles> from(x, rows, k);
  const stream::Results<kTiles> results(rows, to, n0);
  float acc[kTiles][4] = {};
  stream::multiply<kTiles>(weights, from, acc);
  results.write(acc);
}

}  // namespace qwen3::cuda
