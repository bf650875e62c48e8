#pragma once

// Products of row-major bf16 matrices, out = x W^T, as parts of kernels: gemm_tile for many rows; for few there is
// stream_rows (linear_stream.h). Both take their rows through TileRows, so that the dense layers, the chosen rows of
// the logits and the experts share them.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {

// Rows [begin, begin + count) of a product: row i reads x[in ? in[begin + i] / in_divide : begin + i] and writes
// out[out ? out[begin + i] : begin + i].
struct TileRows {
  int begin, count;
  const int32_t* in;
  const int32_t* out;
  int in_divide;
  QWEN3_DEVICE int64_t in_row(int i) const { return in ? load(in + begin + i) / in_divide : begin + i; }
  QWEN3_DEVICE int64_t out_row(int i) const { return out ? load(out + begin + i) : begin + i; }
};

// What a product becomes. n: rows of the weight.
struct Target {
  void* out;
  int n;
  Output output;
};

// Two neighbouring columns of a row (kSiluMul: of gate, and of up in u0, u1; column counts halved already).
QWEN3_DEVICE void write_pair(const Target& to, int64_t row, int column, float v0, float v1, float u0, float u1) {
  if (to.output == Output::kSiluMul) {
    store(reinterpret_cast<uint32_t*>(static_cast<Bf16*>(to.out) + row * (to.n / 2) + column),
          pack_bf16(silu(v0) * u0, silu(v1) * u1));
    return;
  }
  auto* p = reinterpret_cast<Float2*>(static_cast<float*>(to.out) + row * to.n + column);
  if (to.output == Output::kAddF32) {
    const Float2 old = load(p);
    v0 += old.x, v1 += old.y;
  }
  store(p, {v0, v1});
}

namespace gemm {

// 128 columns and 32 of k per stage: two rows of 64 bytes fill the 32 banks, and chunk ^ row / 2 % 4 keeps both the
// copies and ldmatrix free of conflicts. Three stages of at most 16 KB: two blocks fit the 100 KB of sm_86, 89 and 120,
// and with at most 128 registers a thread those of every chip. One block's products hide what the other waits for and
// writes. Eight warps, 2 x 4: each holds kM / 2 x 32 outputs, at most 64 accumulators a thread.
constexpr int kN = 128, kK = 32, kStages = 3, kThreads = 256;
constexpr int kChunks = kK / 8, kCopyRows = kThreads / kChunks;  // rows that the block copies at a time
template <int kM>
constexpr int kSharedBytes = kStages*(kM + kN) * kK * 2;

// Element offset of the 16-byte chunk (8 elements) of a row of 32.
QWEN3_DEVICE int at(int row, int chunk) {
  return row * kK + (chunk ^ (row >> 1 & 3)) * 8;
}

}  // namespace gemm

// One kM x 128 tile at column n0. Rows beyond rows.count are computed on zeros and not written.
template <int kM>
QWEN3_DEVICE void gemm_tile(const Bf16* x, const Bf16* weight, const TileRows& rows, int k, int n0, const Target& to) {
  using namespace gemm;
  constexpr int kRowTiles = kM / 32;  // 16-row tiles of a warp
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const auto a_stages = shared_memory<Bf16>(0), b_stages = shared_memory<Bf16>(kStages * kM * kK * 2);

  // A thread copies the same chunk of rows thread / 4 + 64 i throughout.
  const int copy_row = thread / kChunks, chunk = thread % kChunks;
  const Bf16* a_from[kM / kCopyRows];
  bool a_valid[kM / kCopyRows];
  QWEN3_UNROLL
  for (int i = 0; i < kM / kCopyRows; ++i) {
    a_valid[i] = copy_row + kCopyRows * i < rows.count;
    a_from[i] = x + (a_valid[i] ? rows.in_row(copy_row + kCopyRows * i) * k : 0);
  }
  const auto copy_stage = [&](int tile) {
    const int stage = tile % kStages, k0 = tile * kK + chunk * 8;
    const bool k_valid = k0 < k;
    QWEN3_UNROLL
    for (int i = 0; i < kM / kCopyRows; ++i) {
      const bool valid = a_valid[i] && k_valid;
      cp_async16(a_stages + stage * kM * kK + at(copy_row + kCopyRows * i, chunk), valid ? a_from[i] + k0 : x,
                 valid ? 16 : 0);
    }
    QWEN3_UNROLL
    for (int i = 0; i < kN / kCopyRows; ++i) {
      const int row = n0 + copy_row + kCopyRows * i;
      const bool valid = row < to.n && k_valid;
      cp_async16(b_stages + stage * kN * kK + at(copy_row + kCopyRows * i, chunk),
                 valid ? weight + static_cast<int64_t>(row) * k + k0 : weight, valid ? 16 : 0);
    }
  };

  const int tiles = (k + kK - 1) / kK;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < tiles) copy_stage(s);
    cp_async_commit();
  }
  float acc[kRowTiles][4][4] = {};
  const int m0 = warp / 4 * (kM / 2), column0 = warp % 4 * 32;
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<kStages - 2>();
    block_sync();  // this tile has arrived for everybody, and everybody is done with the one before
    if (tile + kStages - 1 < tiles) copy_stage(tile + kStages - 1);
    cp_async_commit();
    const auto a = a_stages + tile % kStages * kM * kK, b = b_stages + tile % kStages * kN * kK;
    QWEN3_UNROLL
    for (int step = 0; step < kK / 16; ++step) {
      uint32_t fb[2][4];
      QWEN3_UNROLL
      for (int j = 0; j < 2; ++j) {
        ldmatrix_x4(fb[j], b + at(column0 + j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
      }
      QWEN3_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t fa[4];
        ldmatrix_x4(fa, a + at(m0 + i * 16 + lane % 16, step * 2 + lane / 16));
        QWEN3_UNROLL
        for (int j = 0; j < 4; ++j) {
          const uint32_t pair[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
          mma_bf16(acc[i][j], fa, pair);
        }
      }
    }
  }

  QWEN3_UNROLL
  for (int i = 0; i < kRowTiles; ++i) {
    QWEN3_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = m0 + i * 16 + lane / 4 + half * 8;
      if (row >= rows.count) continue;
      const int64_t out_row = rows.out_row(row);
      const bool gated = to.output == Output::kSiluMul;
      QWEN3_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int column = n0 + column0 + j * 8 + lane % 4 * 2;
        if (column >= to.n || (gated && j % 2 == 1)) continue;
        const int up = j % 2 == 0 ? j + 1 : j;  // kSiluMul: 8 columns of gate, then the same 8 of up
        write_pair(to, out_row, gated ? (n0 + column0 + j * 8) / 2 + lane % 4 * 2 : column, acc[i][j][half * 2],
                   acc[i][j][half * 2 + 1], acc[i][up][half * 2], acc[i][up][half * 2 + 1]);
      }
    }
  }
}

}  // namespace qwen3::cuda
