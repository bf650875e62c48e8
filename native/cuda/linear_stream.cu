// out = x W^T for few rows, with what comes before it in a decoding layer (linear_stream.h: the tiling).
//
// A layer of a small model streams its weights in a few microseconds, and each kernel boundary costs one or two of
// them: the last block's tail, the launch, the first loads' latency. So:
//   - The first chunks of the weight, 32 KB a block, are fetched before the kernel ahead has ended
//     (grid_dependency_wait).
//   - rms_norm ahead of a product: every block normalises the rows for itself while its weights are on their way. It
//     reads 4 (rows + 1) k bytes from L2 instead of 2 rows k, beside 32 k of weights from memory: with an L2 of about
//     1.8 times the memory's bandwidth that is hidden up to 4 rows, and no longer at 8.
// docs/cuda.md has the figures.

#include "cuda/linear_stream.h"

namespace qwen3::cuda {
namespace {

static_assert(stream::kThreads == kNormThreads);
constexpr int kFewColumns = 96 * 16;  // in 16s they are fewer blocks than chips of sm_80 and later have multiprocessors
constexpr int kMostShared = 96 * 1024;  // sm_86, 89 and 120 have 99 KB

// Normalised rows lie behind the sums.
NormLayout stream_layout(int k) {
  return norm_layout(stream::kSharedBytes<1>, k);
}

// Rows of x in shared memory, normalised or as they are.
struct NormedRows {
  static constexpr bool kFar = false;  // in shared memory
  Shared<Bf16> from;
  bool valid[1];
  QWEN3_DEVICE Words4 load(int, int at) const { return (from + at).as<Words4>().load(); }
};

QWEN3_DEVICE NormedRows normed_rows(const StreamFusion& fusion, const NormLayout& layout, const TileRows& rows, int k) {
  const auto partial = shared_memory<float>(0);  // the product's sums come later
  normalise_rows(
      fusion.residual, [&](int r) { return rows.in_row(r); }, rows.count, k, fusion.norm_eps, layout, partial);
  block_sync();
  const int group = thread_index().x % 32 / 4;
  return {shared_memory<Bf16>(layout.rows_at) + group * layout.stride, {group < rows.count}};
}

// For blocks of 8 weight rows: rows of x as they are, in one trip to L2. Loads by the lanes that need them take
// several, as registers hold 48 words of the weight already.
NormLayout copied_layout(int k) {
  return {stream::kSharedBytes<1>, stream::kSharedBytes<1>, (k + 63) / 64 * 64 + 32};
}

QWEN3_DEVICE NormedRows copied_rows(const Bf16* x, const NormLayout& layout, const TileRows& rows, int k) {
  const auto to = shared_memory<Bf16>(layout.rows_at);
  const int group = thread_index().x % 32 / 4;
  for (int r = 0; r < rows.count; ++r) {
    const Bf16* from = x + rows.in_row(r) * k;
    for (int i = thread_index().x; i < k / 8; i += stream::kThreads)
      cp_async16(to + r * layout.stride + i * 8, from + i * 8);
  }
  cp_async_commit();
  cp_async_wait<0>();
  block_sync();
  return {to + group * layout.stride, {group < rows.count}};
}

// Groups of 64 rows run side by side, so that the weight comes from memory once and from L2 after that. kRows: of
// the weight, a block's.
template <int kTiles, bool kNorm, int kRows = 16>
QWEN3_KERNEL(stream::kThreads)
linear_stream_kernel(LinearOperands o, LinearShape shape, Output output, QWEN3_GRID_CONSTANT const StreamFusion fusion,
                     NormLayout layout) {
  grid_dependency_launch();
  const int begin = block_index().x * 64, left = shape.n_rows - begin, n0 = block_index().y * kRows;
  const TileRows rows{begin, left < 64 ? left : 64, o.gather, nullptr, 1};
  const Target to{o.out, shape.n, output};
  stream::Weights<kRows> weights(o.weight, shape.n, shape.k, n0);
  weights.fetch_first();
  float acc[kTiles][4] = {};
  if constexpr (kNorm) {
    fetch_norm_weight(fusion.norm_weight, layout, shape.k);
    grid_dependency_wait();
    const NormedRows x = normed_rows(fusion, layout, rows, shape.k);
    const stream::Results<kTiles, kRows> results(rows, to, n0);
    stream::multiply<kTiles, kRows>(weights, x, acc);
    results.write(acc);
  } else if constexpr (kRows == 8) {
    grid_dependency_wait();
    const stream::Results<kTiles, kRows> results(rows, to, n0);
    const NormedRows x = copied_rows(o.x, layout, rows, shape.k);
    stream::multiply<kTiles, kRows>(weights, x, acc);
    results.write(acc);
  } else {
    grid_dependency_wait();
    const stream::GlobalRows<kTiles> x(o.x, rows, shape.k);
    const stream::Results<kTiles, kRows> results(rows, to, n0);
    stream::multiply<kTiles, kRows>(weights, x, acc);
    results.write(acc);
  }
}

// Whether blocks take 8 rows of the weight.
bool takes_eight(const LinearShape& shape) {
  return shape.n <= kFewColumns && shape.n_rows <= kMostNormRows &&
         norm_bytes(copied_layout(shape.k), shape.n_rows) <= kMostShared;
}

}  // namespace

bool stream_takes_norm(int n_rows, int k) {
  return n_rows <= kMostNormRows && norm_bytes(stream_layout(k), n_rows) <= kMostShared;
}

void linear_stream(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output,
                   const StreamFusion& fusion) {
  NormLayout layout = stream_layout(shape.k);
  const auto run = [&](auto kernel, int shared, int block_rows = 16) {
    const LaunchShape launch_shape{
        {(shape.n_rows + 63) / 64, (shape.n + block_rows - 1) / block_rows, 1}, {stream::kThreads, 1, 1}, shared, true};
    launch(stream, "linear_stream", kernel, launch_shape, operands, shape, output, fusion, layout);
  };
  if (shape.n_rows > 32) {
    run(linear_stream_kernel<8, false>, stream::kSharedBytes<8>);
  } else if (shape.n_rows > 16) {
    run(linear_stream_kernel<4, false>, stream::kSharedBytes<4>);
  } else if (shape.n_rows > 8) {
    run(linear_stream_kernel<2, false>, stream::kSharedBytes<2>);
  } else if (fusion.residual) {
    run(linear_stream_kernel<1, true>, norm_bytes(layout, shape.n_rows));
  } else if (output != Output::kSiluMul && takes_eight(shape)) {
    layout = copied_layout(shape.k);
    run(linear_stream_kernel<1, false, 8>, norm_bytes(layout, shape.n_rows), 8);
  } else {
    run(linear_stream_kernel<1, false>, stream::kSharedBytes<1>);
  }
}

}  // namespace qwen3::cuda
