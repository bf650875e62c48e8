// out = x W^T for many rows on sm_90a: TMA, wgmma, persistent blocks. See gemm_hopper.h for the tiling.
//
// One producer thread fetches both operands by TMA. Blocks walk the tiles in columns of kGroup row tiles, which share
// weights in L2.

#include "cuda/gemm_hopper.h"

namespace qwen3::cuda {
namespace {

using namespace hopper;

constexpr int kGroup = 8;

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

QWEN3_DEVICE void write_f32(const Accumulator& acc, float* out, int64_t row, int n_rows, int n, int column0, bool add) {
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

QWEN3_DEVICE void write_gated(const Accumulator& acc, Bf16* out, int64_t row, int n_rows, int n, int column0) {
  const int t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    Bf16* to = out + (row + h * 8) * (n / 2) + column0 / 2;
    QWEN3_UNROLL
    for (int i = 0; i < kN / 32; ++i) {
      const bool inside = row + h * 8 < n_rows && column0 / 2 + i * 16 + t * 4 < n / 2;
      store_sector(to + i * 16, gated_pair(acc, i * 2, h), gated_pair(acc, i * 2 + 1, h), inside);
    }
  }
}

QWEN3_DEVICE void consume(const TileGrid& grid, int k_tiles, const LinearShape& shape, void* out, Output output) {
  const int consumer = thread_index().x / 128 - 1;
  Slot slot;
  for (int tile = block_index().x; tile < grid.count(); tile += grid_dim().x) {
    Accumulator acc;
    multiply_stages(acc, slot, consumer, k_tiles);
    int row, column;
    grid.locate(tile, row, column);
    const int64_t first = row * kM + held_row();
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
    barriers.init(1);
  }
  block_sync();
  grid_dependency_wait();
  const TileGrid grid{(shape.n_rows + kM - 1) / kM, (shape.n + kN - 1) / kN};
  const int k_tiles = (shape.k + kK - 1) / kK;
  if (thread_index().x < 128) {
    set_max_registers_down<kProducerRegisters>();
    if (thread_index().x == 0) produce(x, weight, grid, k_tiles);
  } else {
    set_max_registers_up<kConsumerRegisters>();
    consume(grid, k_tiles, shape, out, output);
  }
  grid_dependency_launch();
}

}  // namespace

void linear_hopper(Stream stream, const LinearOperands& o, const LinearShape& shape, Output output,
                   int multiprocessors) {
  const int tiles = ((shape.n_rows + kM - 1) / kM) * ((shape.n + kN - 1) / kN);
  const LaunchShape grid{
      {tiles < multiprocessors ? tiles : multiprocessors, 1, 1}, {kThreads, 1, 1}, kSharedBytes, true};
  launch(stream, "linear_hopper", linear_hopper_kernel, grid, describe_matrix(o.x, shape.n_rows, shape.k, kM),
         describe_matrix(o.weight, shape.n, shape.k, kN), shape, o.out, output);
}

}  // namespace qwen3::cuda
