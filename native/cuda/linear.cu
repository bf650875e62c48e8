// out = x W^T with its epilogues, for many rows. See gemm.h for the tiling.
//
// Not persistent: two blocks share a multiprocessor, so that one multiplies while the other writes its tile or waits
// for its first stages, and the hardware hands out tiles in the order that a persistent block would take them in.

#include "cuda/gemm.h"
#include "cuda/tile_grid.h"

namespace qwen3::cuda {
namespace {

constexpr int kRows = 128, kBand = 16;  // 2 x 108 blocks on an A100

QWEN3_KERNEL_OF(gemm::kThreads, 2) linear_kernel(LinearOperands o, LinearShape shape, TileGrid grid, Output output) {
  int row, column;
  grid.locate(block_index().x, row, column);
  const int begin = row * kRows, left = shape.n_rows - begin;
  grid_dependency_wait();
  gemm_tile<kRows>(o.x, o.weight, {begin, left < kRows ? left : kRows, o.gather, nullptr, 1}, shape.k,
                   column * gemm::kN, {o.out, shape.n, output});
  grid_dependency_launch();
}

}  // namespace

void linear(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output) {
  const TileGrid grid{(shape.n_rows + kRows - 1) / kRows, (shape.n + gemm::kN - 1) / gemm::kN, kBand};
  const LaunchShape launch_shape{
      {grid.rows * grid.columns, 1, 1}, {gemm::kThreads, 1, 1}, gemm::kSharedBytes<kRows>, true};
  launch(stream, "linear", linear_kernel, launch_shape, operands, shape, grid, output);
}

}  // namespace qwen3::cuda
