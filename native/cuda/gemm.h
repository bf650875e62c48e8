#pragma once

// Products of row-major bf16 matrices, out = x W^T, as parts of kernels: gemm_tile for many rows, stream_rows for few.
// Both take their rows through TileRows, so that the dense layers, the chosen rows of the logits and the experts share
// them.

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

// 128 columns and 64 of k per stage: rows of 128 bytes fill the 32 banks, and chunk ^ row % 8 keeps both the copies and
// ldmatrix free of conflicts. Three stages of at most 32 KB stay below the 99 KB of sm_86, 89 and 120. Eight warps, 2 x
// 4: each holds kM / 2 x 32 outputs, at most 64 accumulators a thread.
constexpr int kN = 128, kK = 64, kStages = 3, kThreads = 256;
template <int kM>
constexpr int kSharedBytes = kStages*(kM + kN) * kK * 2;

// Element offset of the 16-byte chunk (8 elements) of a row of 64.
QWEN3_DEVICE int at(int row, int chunk) {
  return row * kK + (chunk ^ (row & 7)) * 8;
}

}  // namespace gemm

// One kM x 128 tile at column n0. Rows beyond rows.count are computed on zeros and not written.
template <int kM>
QWEN3_DEVICE void gemm_tile(const Bf16* x, const Bf16* weight, const TileRows& rows, int k, int n0, const Target& to) {
  using namespace gemm;
  constexpr int kRowTiles = kM / 32;  // 16-row tiles of a warp
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32;
  const auto a_stages = shared_memory<Bf16>(0), b_stages = shared_memory<Bf16>(kStages * kM * kK * 2);

  // A thread copies the same chunk of rows thread / 8 + 32 i throughout.
  const int copy_row = thread / 8, chunk = thread % 8;
  const Bf16* a_from[kM / 32];
  bool a_valid[kM / 32];
  QWEN3_UNROLL
  for (int i = 0; i < kM / 32; ++i) {
    a_valid[i] = copy_row + 32 * i < rows.count;
    a_from[i] = x + (a_valid[i] ? rows.in_row(copy_row + 32 * i) * k : 0);
  }
  const auto copy_stage = [&](int tile) {
    const int stage = tile % kStages, k0 = tile * kK + chunk * 8;
    const bool k_valid = k0 < k;
    QWEN3_UNROLL
    for (int i = 0; i < kM / 32; ++i) {
      const bool valid = a_valid[i] && k_valid;
      cp_async16(a_stages + stage * kM * kK + at(copy_row + 32 * i, chunk), valid ? a_from[i] + k0 : x, valid ? 16 : 0);
    }
    QWEN3_UNROLL
    for (int i = 0; i < kN / 32; ++i) {
      const int row = n0 + copy_row + 32 * i;
      const bool valid = row < to.n && k_valid;
      cp_async16(b_stages + stage * kN * kK + at(copy_row + 32 * i, chunk),
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

namespace stream {

// A block takes 16 rows of the weight; its 8 warps take every 8th chunk of 32 k each, so that 8 x 4 loads of 16 bytes
// per lane are on their way: 16 KB a warp set, several blocks a multiprocessor. Partial sums are joined in shared
// memory in the order of the warps: the order along k is one, whatever the number of rows.
constexpr int kWarps = 8, kThreads = kWarps * 32, kUnroll = 4;
constexpr int kStride = 20;  // of 16 sums in shared memory: 2 rows are 8 banks apart
template <int kTiles>
constexpr int kSharedBytes = kWarps* kTiles * 8 * kStride * 4;

}  // namespace stream

// Weight rows n0 to n0 + 15 times up to 8 kTiles rows of x. mma with the weight as A: its 16 x 16 fragments are loaded
// straight from memory, 16 bytes of k per lane, by taking k in the same permuted order in both operands.
template <int kTiles>
QWEN3_DEVICE void stream_rows(const Bf16* x, const Bf16* weight, const TileRows& rows, int k, int n0,
                              const Target& to) {
  using namespace stream;
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32, group = lane / 4, in_group = lane % 4;
  const Bf16* low = weight + static_cast<int64_t>(n0 + group) * k;
  const Bf16* high = low + static_cast<int64_t>(8) * k;
  const bool low_valid = n0 + group < to.n, high_valid = n0 + group + 8 < to.n;
  const Bf16* from[kTiles];
  bool valid[kTiles];
  QWEN3_UNROLL
  for (int j = 0; j < kTiles; ++j) {
    valid[j] = j * 8 + group < rows.count;
    from[j] = x + (valid[j] ? rows.in_row(j * 8 + group) * k : 0);
  }
  float acc[kTiles][4] = {};
  const Words4 zero{0, 0, 0, 0};
  for (int begin = warp * 32; begin < k; begin += kWarps * kUnroll * 32) {
    Words4 w0[kUnroll], w1[kUnroll];
    QWEN3_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const int at = begin + u * kWarps * 32 + in_group * 8;
      w0[u] = low_valid && at < k ? load_stream(reinterpret_cast<const Words4*>(low + at)) : zero;
      w1[u] = high_valid && at < k ? load_stream(reinterpret_cast<const Words4*>(high + at)) : zero;
    }
    QWEN3_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const int at = begin + u * kWarps * 32 + in_group * 8;
      const uint32_t first[4] = {w0[u].x, w1[u].x, w0[u].y, w1[u].y};
      const uint32_t second[4] = {w0[u].z, w1[u].z, w0[u].w, w1[u].w};
      QWEN3_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const Words4 v = valid[j] && at < k ? load(reinterpret_cast<const Words4*>(from[j] + at)) : zero;
        const uint32_t b0[2] = {v.x, v.y}, b1[2] = {v.z, v.w};
        mma_bf16(acc[j], first, b0);
        mma_bf16(acc[j], second, b1);
      }
    }
  }
  const auto sums = shared_memory<float>(0);  // [kWarps, 8 kTiles rows, kStride]
  QWEN3_UNROLL
  for (int j = 0; j < kTiles; ++j) {
    QWEN3_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums.store((warp * kTiles * 8 + j * 8 + in_group * 2 + i % 2) * kStride + group + i / 2 * 8, acc[j][i]);
    }
  }
  block_sync();
  // A thread writes two columns of a row.
  const bool gated = to.output == Output::kSiluMul;
  const int pairs = gated ? 4 : 8;
  for (int i = thread; i < kTiles * 8 * pairs; i += kThreads) {
    // Rows in the order 0 4 2 6 1 5 3 7: those of a half warp are 16 or 8 banks apart.
    const int index = i / pairs, reversed = (index & 1) * 4 + (index & 2) + (index >> 2 & 1);
    const int row = index / 8 * 8 + reversed, column = i % pairs * 2;
    if (row >= rows.count) continue;
    float v[2] = {}, u[2] = {};
    for (int w = 0; w < kWarps; ++w) {
      const auto at = (sums + (w * kTiles * 8 + row) * kStride + column).template as<Float2>();
      const Float2 sum = at.load();
      v[0] += sum.x, v[1] += sum.y;
      if (!gated) continue;
      const Float2 up = at.load(4);
      u[0] += up.x, u[1] += up.y;
    }
    const int to_column = gated ? n0 / 2 + column : n0 + column;
    if ((gated ? to_column * 2 : to_column) < to.n)
      write_pair(to, rows.out_row(row), to_column, v[0], v[1], u[0], u[1]);
  }
}

}  // namespace qwen3::cuda
