// out = x W^T for many rows on sm_90a: TMA, wgmma, persistent blocks. See gemm_hopper.h for the tiling.
//
// One producer thread fetches both operands by TMA. Blocks walk the tiles in bands of rows that share weights in L2.

#include "cuda/gemm_hopper.h"
#include "cuda/tile_grid.h"

namespace qwen3::cuda {
namespace {

using namespace hopper;

constexpr int kBand = 16;  // of 132 blocks

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

// The 64 columns from group j0 of eight on, of row g + 8 h. What is added to is fetched before anything is written.
QWEN3_DEVICE void write_f32_part(const Accumulator& acc, float* to, int j0, int h, int columns, bool add) {
  const int t = thread_index().x % 4, first = (j0 + t % 2) * 8 + t / 2 * 4;
  Float4 old[4] = {};
  QWEN3_UNROLL
  for (int u = 0; u < 4; ++u) {
    if (add && first + u * 16 < columns) old[u] = load(reinterpret_cast<const Float4*>(to + first + u * 16));
  }
  QWEN3_UNROLL
  for (int u = 0; u < 4; ++u) {
    const int a = (j0 + u * 2) * 4 + h * 2, b = a + 4;
    const Float4 v = join_pairs({acc.get(a), acc.get(a + 1)}, {acc.get(b), acc.get(b + 1)});
    if (first + u * 16 >= columns) continue;
    store(reinterpret_cast<Float4*>(to + first + u * 16),
          {v.x + old[u].x, v.y + old[u].y, v.z + old[u].z, v.w + old[u].w});
  }
}

QWEN3_DEVICE void write_f32(const Accumulator& acc, float* out, int64_t row, int n_rows, int n, int column0, bool add) {
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int columns = row + h * 8 < n_rows ? n - column0 : 0;
    float* const to = out + (row + h * 8) * n + column0;
    QWEN3_UNROLL
    for (int j0 = 0; j0 < kN / 8; j0 += 8) write_f32_part(acc, to, j0, h, columns, add);
  }
}

QWEN3_DEVICE void write_gated(const Accumulator& acc, Bf16* out, int64_t row, int n_rows, int n, int column0) {
  const int t = thread_index().x % 4;
  QWEN3_UNROLL
  for (int h = 0; h < 2; ++h) {
    Bf16* to = out + (row + h * 8) * (n / 2) + column0 / 2;
    QWEN3_UNROLL
    for (int i = 0; i < kN / 64; ++i) {
      const bool inside = row + h * 8 < n_rows && column0 / 2 + i * 32 + t * 8 < n / 2;
      const uint32_t words[4] = {gated_pair(acc, i * 4, h), gated_pair(acc, i * 4 + 1, h),
                                 gated_pair(acc, i * 4 + 2, h), gated_pair(acc, i * 4 + 3, h)};
      store_quad(to + i * 32, words, inside);
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
                     LinearShape shape, TileGrid grid, void* out, Output output) {
  const Barriers barriers;
  if (thread_index().x == 0) {
    tma_prefetch(x), tma_prefetch(weight);
    barriers.init(1);
  }
  block_sync();
  grid_dependency_wait();
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
  const TileGrid grid{(shape.n_rows + kM - 1) / kM, (shape.n + kN - 1) / kN, kBand};
  const int tiles = grid.rows * grid.columns;
  const LaunchShape launch_shape{
      {tiles < multiprocessors ? tiles : multiprocessors, 1, 1}, {kThreads, 1, 1}, kSharedBytes, true};
  launch(stream, "linear_hopper", linear_hopper_kernel, launch_shape, describe_matrix(o.x, shape.n_rows, shape.k, kM),
         describe_matrix(o.weight, shape.n, shape.k, kN), shape, grid, o.out, output);
}

}  // namespace qwen3::cuda
