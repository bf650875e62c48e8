// out = x W^T with its epilogues, for many rows (linear) and for few (linear_stream). See gemm.h for the tilings.

#include "cuda/gemm.h"

namespace qwen3::cuda {
namespace {

// Blocks of one column of tiles run side by side and share the weight's tile in L2.
QWEN3_KERNEL(gemm::kThreads) linear_kernel(LinearOperands o, LinearShape shape, Output output) {
  const int begin = block_index().x * 128;
  const int left = shape.n_rows - begin;
  grid_dependency_wait();
  gemm_tile<128>(o.x, o.weight, {begin, left < 128 ? left : 128, o.gather, nullptr, 1}, shape.k,
                 block_index().y * gemm::kN, {o.out, shape.n, output});
  grid_dependency_launch();
}

// Groups of 64 rows run side by side, so that the weight comes from memory once and from L2 after that.
template <int kTiles>
QWEN3_KERNEL(stream::kThreads)
linear_stream_kernel(LinearOperands o, LinearShape shape, Output output) {
  const int begin = block_index().x * 64;
  const int left = shape.n_rows - begin;
  grid_dependency_wait();
  stream_rows<kTiles>(o.x, o.weight, {begin, left < 64 ? left : 64, o.gather, nullptr, 1}, shape.k,
                      block_index().y * 16, {o.out, shape.n, output});
  grid_dependency_launch();
}

}  // namespace

void linear(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output) {
  const LaunchShape launch_shape{{(shape.n_rows + 127) / 128, (shape.n + gemm::kN - 1) / gemm::kN, 1},
                                 {gemm::kThreads, 1, 1},
                                 gemm::kSharedBytes<128>};
  launch(stream, "linear", linear_kernel, launch_shape, operands, shape, output);
}

void linear_stream(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output) {
  const auto run = [&](auto kernel, int shared) {
    const LaunchShape launch_shape{
        {(shape.n_rows + 63) / 64, (shape.n + 15) / 16, 1}, {stream::kThreads, 1, 1}, shared};
    launch(stream, "linear_stream", kernel, launch_shape, operands, shape, output);
  };
  if (shape.n_rows <= 8) {
    run(linear_stream_kernel<1>, stream::kSharedBytes<1>);
  } else if (shape.n_rows <= 16) {
    run(linear_stream_kernel<2>, stream::kSharedBytes<2>);
  } else if (shape.n_rows <= 32) {
    run(linear_stream_kernel<4>, stream::kSharedBytes<4>);
  } else {
    run(linear_stream_kernel<8>, stream::kSharedBytes<8>);
  }
}

}  // namespace qwen3::cuda
