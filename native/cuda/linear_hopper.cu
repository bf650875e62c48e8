// out = x W^T for many rows on sm_90a: TMA, wgmma, persistent blocks.
//
// Tiles of 128 x 256: two consumer warpgroups of 64 x 256 outputs (128 accumulators a thread), so that a tile reads
// 128 + 256 rows for 128 * 256 products per k. One producer thread keeps four stages of 64 k (48 KB each, 192 KB) in
// flight; rows of 128 bytes in the 128-byte swizzle are free of bank conflicts for TMA and wgmma alike. setmaxnreg
// gives the producer's registers to the consumers. Blocks walk the tiles in columns of kGroup row tiles, which share
// weights in L2.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kM = 128, kN = 256, kK = 64, kStages = 4, kThreads = 384, kGroup = 8;
constexpr int kStageElements = (kM + kN) * kK;
constexpr int kBarrierBytes = 1024;  // keeps the stages on the 1,024 bytes of the swizzle's pattern

struct Barriers {
  QWEN3_DEVICE Shared<uint64_t> full(int stage) const { return shared_memory<uint64_t>(stage * 8); }
  QWEN3_DEVICE Shared<uint64_t> empty(int stage) const { return shared_memory<uint64_t>(64 + stage * 8); }
};

// A stage of the ring and the parity of the phase that is waited for.
struct Slot {
  int stage = 0, parity = 0;
  QWEN3_DEVICE void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

QWEN3_DEVICE Shared<Bf16> stage_memory(int stage) {
  return shared_memory<Bf16>(kBarrierBytes) + stage * kStageElements;
}

struct TileGrid {
  int rows, columns;
  QWEN3_DEVICE int count() const { return rows * columns; }
  QWEN3_DEVICE void locate(int tile, int& row, int& column) const {
    const int band = tile / (kGroup * columns), first = band * kGroup;
    const int height = rows - first < kGroup ? rows - first : kGroup;
    const int inside = tile - first * columns;
    row = first + inside % height, column = inside / height;
  }
};

QWEN3_DEVICE void produce(const TensorMap& x, const TensorMap& weight, const TileGrid& grid, int k_tiles) {
  const Barriers barriers;
  Slot slot;
  for (int tile = block_index().x; tile < grid.count(); tile += grid_dim().x) {
    int row, column;
    grid.locate(tile, row, column);
    for (int k = 0; k < k_tiles; ++k, slot.next()) {
      mbarrier_wait(barriers.empty(slot.stage), slot.parity ^ 1);
      mbarrier_arrive_expect(barriers.full(slot.stage), kStageElements * 2);
      const auto a = stage_memory(slot.stage);
      tma_load(a, x, barriers.full(slot.stage), k * kK, row * kM);
      tma_load(a + kM * kK, weight, barriers.full(slot.stage), k * kK, column * kN);
    }
  }
}

// Registers i = 4 j + 2 h + {0, 1} are row g + 8 h, columns 8 j + 2 t + {0, 1}.
QWEN3_DEVICE void write_f32(const WgmmaRegisters<float, kN / 2>& acc, float* out, int64_t row, int n_rows, int n,
                            int column0, bool add) {
  const int t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    if (row + h * 8 >= n_rows) continue;
    float* to = out + (row + h * 8) * n;
    QWEN3_UNROLL
    for (int j = 0; j < kN / 8; ++j) {
      const int column = column0 + j * 8 + t * 2;
      if (column >= n) continue;
      auto* p = reinterpret_cast<Float2*>(to + column);
      Float2 v{acc.get(j * 4 + h * 2), acc.get(j * 4 + h * 2 + 1)};
      if (add) {
        const Float2 old = load(p);
        v = {v.x + old.x, v.y + old.y};
      }
      store(p, v);
    }
  }
}

// Groups of 8 columns are gate and up in turn. Two groups of results are 16 neighbouring columns; the four lanes of a
// row exchange words so that each stores 8 bytes, a whole sector together.
QWEN3_DEVICE void write_gated(const WgmmaRegisters<float, kN / 2>& acc, Bf16* out, int64_t row, int n_rows, int n,
                              int column0) {
  const int lane = thread_index().x % 32, t = lane % 4, from = lane - t + t % 2 * 2;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const bool inside = row + h * 8 < n_rows;
    Bf16* to = out + (row + h * 8) * (n / 2);
    QWEN3_UNROLL
    for (int j = 0; j < kN / 8; j += 4) {
      uint32_t word[2];
      QWEN3_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        const int gate = (j + pair * 2) * 4 + h * 2, up = gate + 4;
        word[pair] = pack_bf16(silu(acc.get(gate)) * acc.get(up), silu(acc.get(gate + 1)) * acc.get(up + 1));
      }
      const uint32_t low0 = shuffle(word[0], from), low1 = shuffle(word[1], from);
      const uint32_t high0 = shuffle(word[0], from + 1), high1 = shuffle(word[1], from + 1);
      const int column = (column0 + j * 8) / 2 + t * 4;
      if (!inside || column >= n / 2) continue;
      store(reinterpret_cast<Words2*>(to + column), t < 2 ? Words2{low0, high0} : Words2{low1, high1});
    }
  }
}

QWEN3_DEVICE void consume(const TileGrid& grid, int k_tiles, const LinearShape& shape, void* out, Output output) {
  const Barriers barriers;
  const int consumer = thread_index().x / 128 - 1, warp = thread_index().x / 32 % 4, lane = thread_index().x % 32;
  Slot slot;
  for (int tile = block_index().x; tile < grid.count(); tile += grid_dim().x) {
    WgmmaRegisters<float, kN / 2> acc;
    int previous = -1;
    for (int k = 0; k < k_tiles; ++k, slot.next()) {
      mbarrier_wait(barriers.full(slot.stage), slot.parity);
      const uint32_t a = (stage_memory(slot.stage) + consumer * 64 * kK).address();
      const uint32_t b = (stage_memory(slot.stage) + kM * kK).address();
      wgmma_fence();
      QWEN3_UNROLL
      for (int step = 0; step < kK / 16; ++step) {  // 16 k are 32 bytes along the swizzled row
        wgmma<kN>(acc, matrix_descriptor(a + step * 32, 16, 1024, Swizzle::k128),
                  matrix_descriptor(b + step * 32, 16, 1024, Swizzle::k128), k > 0 || step > 0);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the products of the stage before are over
      if (previous >= 0 && lane == 0) mbarrier_arrive(barriers.empty(previous));
      previous = slot.stage;
    }
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(barriers.empty(previous));
    int row, column;
    grid.locate(tile, row, column);
    const int64_t first = row * kM + consumer * 64 + warp * 16 + lane / 4;
    if (output == Output::kSiluMul) {
      write_gated(acc, static_cast<Bf16*>(out), first, shape.n_rows, shape.n, column * kN);
    } else {
      write_f32(acc, static_cast<float*>(out), first, shape.n_rows, shape.n, column * kN, output == Output::kAddF32);
    }
  }
}

QWEN3_KERNEL(kThreads)
linear_hopper_kernel(QWEN3_GRID_CONSTANT const TensorMap x, QWEN3_GRID_CONSTANT const TensorMap weight,
                     LinearShape shape, void* out, Output output) {
  const Barriers barriers;
  if (thread_index().x == 0) {
    tma_prefetch(x), tma_prefetch(weight);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(barriers.full(s), 1);
      mbarrier_init(barriers.empty(s), 8);  // the warps of the consumers
    }
    fence_mbarrier_init();
  }
  block_sync();
  grid_dependency_wait();
  const TileGrid grid{(shape.n_rows + kM - 1) / kM, (shape.n + kN - 1) / kN};
  const int k_tiles = (shape.k + kK - 1) / kK;
  if (thread_index().x < 128) {
    set_max_registers_down<40>();
    if (thread_index().x == 0) produce(x, weight, grid, k_tiles);
  } else {
    set_max_registers_up<232>();
    consume(grid, k_tiles, shape, out, output);
  }
  grid_dependency_launch();
}

TensorMap describe(const Bf16* base, int rows, int k, int box_rows) {
  TensorShape s;
  s.base = base, s.rank = 2, s.swizzle = Swizzle::k128;
  s.size[0] = static_cast<uint64_t>(k), s.size[1] = static_cast<uint64_t>(rows);
  s.stride[0] = static_cast<uint64_t>(k) * 2;
  s.box[0] = kK, s.box[1] = static_cast<uint32_t>(box_rows);
  return encode_tensor_map(s);
}

}  // namespace

void linear_hopper(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
                   int multiprocessors) {
  const int tiles = ((shape.n_rows + kM - 1) / kM) * ((shape.n + kN - 1) / kN);
  const LaunchShape grid{{tiles < multiprocessors ? tiles : multiprocessors, 1, 1},
                         {kThreads, 1, 1},
                         kBarrierBytes + kStages * kStageElements * 2};
  launch(stream, "linear_hopper", linear_hopper_kernel, grid, describe(o.x, shape.n_rows, shape.k, kM),
         describe(o.weight, shape.n, shape.k, kN), shape, o.out, output);
}

}  // namespace qwen3::cuda
