// out = x W^T for few rows, with what comes before and behind it in a decoding layer (linear_stream.h: the tiling).
//
// A layer of a small model streams its weights in a few microseconds, and each kernel boundary costs one or two of
// them: the last block's tail, the launch, the first loads' latency. So:
//   - The first chunks of the weight, 32 KB a block, are fetched before the kernel ahead has ended
//     (grid_dependency_wait).
//   - rms_norm ahead of a product: every block normalises the rows for itself while its weights are on their way. It
//     reads 4 (rows + 1) k bytes from L2 instead of 2 rows k, beside 32 k of weights from memory: with an L2 of about
//     1.8 times the memory's bandwidth that is hidden up to 4 rows, and no longer at 8.
//   - QK-Norm, RoPE and the append behind the QKV product: the last of the blocks that share a head finishes it, a warp
//     per row; up to 8 rows that costs its tail one trip to L2.
// docs/cuda.md has the figures.

#include "cuda/linear_stream.h"
#include "cuda/qk_norm_rope.h"

namespace qwen3::cuda {
namespace {

constexpr int kNormRows = 4, kHeadRows = stream::kWarps;
constexpr int kMostShared = 96 * 1024;  // sm_86, 89 and 120 have 99 KB

// Where the kernel keeps normalised rows in shared memory: behind the sums and the norm's weight (f32). Rows are 64
// bytes apart in the banks, so that the two that eight lanes read do not meet.
struct NormLayout {
  int rows_at, stride;  // bytes; elements
};
NormLayout norm_layout(int k) {
  return {stream::kSharedBytes<1> + (k * 4 + 127) / 128 * 128, (k + 63) / 64 * 64 + 32};
}
int norm_bytes(int n_rows, int k) {
  const NormLayout layout = norm_layout(k);
  return layout.rows_at + n_rows * layout.stride * 2;
}

struct NormedRows {
  Shared<Bf16> from;
  bool valid[1];
  QWEN3_DEVICE Words4 load(int, int at) const { return (from + at).as<Words4>().load(); }
};

// Each thread copies what it will read itself.
QWEN3_DEVICE void fetch_norm_weight(const float* weight, int k) {
  const auto to = shared_memory<Bf16>(stream::kSharedBytes<1>);
  for (int i = thread_index().x; i < k / 4; i += stream::kThreads) cp_async16(to + i * 8, weight + i * 4);
  cp_async_commit();
}

QWEN3_DEVICE NormedRows normalise_rows(const StreamFusion& fusion, const NormLayout& layout, const TileRows& rows,
                                       int k) {
  static_assert(stream::kThreads == kNormThreads);
  const int thread = thread_index().x, warp = thread / 32, lane = thread % 32, stride = layout.stride;
  const auto partial = shared_memory<float>(0);  // [kNormRows, warps]; the product's sums come later
  const auto weight = shared_memory<Float4>(stream::kSharedBytes<1>);
  const auto to = shared_memory<Bf16>(layout.rows_at);
  const Float4* from[kNormRows];
  float sum[kNormRows] = {};
  QWEN3_UNROLL
  for (int r = 0; r < kNormRows; ++r) {
    from[r] = reinterpret_cast<const Float4*>(fusion.residual + (r < rows.count ? rows.in_row(r) * k : 0));
  }
  for (int i = thread; i < k / 4; i += stream::kThreads) {
    QWEN3_UNROLL
    for (int r = 0; r < kNormRows; ++r) {
      if (r < rows.count) sum[r] = add_squares(sum[r], load(from[r] + i));
    }
  }
  QWEN3_UNROLL
  for (int r = 0; r < kNormRows; ++r) {
    sum[r] = warp_sum(sum[r]);
    if (lane == 0) partial.store(r * kNormWarps + warp, sum[r]);
  }
  cp_async_wait<0>();
  block_sync();
  QWEN3_UNROLL
  for (int r = 0; r < kNormRows; ++r) {
    if (r >= rows.count) continue;
    const float scale = norm_scale(partial + r * kNormWarps, k, fusion.norm_eps);
    const auto row = (to + r * stride).as<Words2>();
    for (int i = thread; i < k / 4; i += stream::kThreads) {
      row.store(i, normalise(load(from[r] + i), scale, weight.load(i)));  // the second time from L1
    }
  }
  block_sync();
  const int group = lane / 4;
  return {to + group * stride, {group < rows.count}};
}

// The last block of a head finishes it.
template <int kHeadDim>
QWEN3_DEVICE void finish_heads(const StreamFusion& fusion, int n_rows, int n0) {
  const int thread = thread_index().x, head = n0 / kHeadDim;
  const auto last = shared_memory<int32_t>(0);
  thread_fence();
  block_sync();  // everybody's columns are written, and the sums have been read
  if (thread == 0) {
    last.store(0, atomic_add(fusion.arrived + head, 1) == kHeadDim / 16 - 1 ? 1 : 0);
    thread_fence();  // the other blocks' columns
  }
  block_sync();
  if (last.load() == 0) return;
  for (int row = thread / 32; row < n_rows; row += stream::kWarps) finish_head<kHeadDim>(fusion.heads, row, head);
  if (thread == 0) store(fusion.arrived + head, 0);
}

// Groups of 64 rows run side by side, so that the weight comes from memory once and from L2 after that. kHeadDim 0:
// nothing behind the product.
template <int kTiles, bool kNorm, int kHeadDim>
QWEN3_KERNEL(stream::kThreads)
linear_stream_kernel(LinearOperands o, LinearShape shape, Output output, QWEN3_GRID_CONSTANT const StreamFusion fusion,
                     NormLayout layout) {
  grid_dependency_launch();
  const int begin = block_index().x * 64, left = shape.n_rows - begin, n0 = block_index().y * 16;
  const TileRows rows{begin, left < 64 ? left : 64, o.gather, nullptr, 1};
  const Target to{o.out, shape.n, output};
  stream::Weights weights(o.weight, shape.n, shape.k, n0);
  weights.fetch_first();
  float acc[kTiles][4] = {};
  if constexpr (kNorm) {
    fetch_norm_weight(fusion.norm_weight, shape.k);
    grid_dependency_wait();
    const NormedRows x = normalise_rows(fusion, layout, rows, shape.k);
    const stream::Results<kTiles> results(rows, to, n0);
    stream::multiply<kTiles>(weights, x, acc);
    results.write(acc);
  } else {
    grid_dependency_wait();
    const stream::GlobalRows<kTiles> x(o.x, rows, shape.k);
    const stream::Results<kTiles> results(rows, to, n0);
    stream::multiply<kTiles>(weights, x, acc);
    results.write(acc);
  }
  if constexpr (kHeadDim > 0) finish_heads<kHeadDim>(fusion, shape.n_rows, n0);
}

}  // namespace

bool stream_takes_norm(int n_rows, int k) {
  return n_rows <= kNormRows && norm_bytes(n_rows, k) <= kMostShared;
}
bool stream_takes_heads(int n_rows) {
  return n_rows <= kHeadRows;
}

void linear_stream(Stream stream, const LinearOperands& operands, const LinearShape& shape, Output output,
                   const StreamFusion& fusion) {
  const auto run = [&](auto kernel, int shared) {
    const LaunchShape launch_shape{
        {(shape.n_rows + 63) / 64, (shape.n + 15) / 16, 1}, {stream::kThreads, 1, 1}, shared, true};
    launch(stream, "linear_stream", kernel, launch_shape, operands, shape, output, fusion, norm_layout(shape.k));
  };
  const auto run_few = [&](auto plain, auto normed) {
    if (fusion.residual)
      run(normed, norm_bytes(shape.n_rows, shape.k));
    else
      run(plain, stream::kSharedBytes<1>);
  };
  const int head_dim = fusion.finishes_heads ? fusion.heads.heads.head_dim : 0;
  if (shape.n_rows > 32) {
    run(linear_stream_kernel<8, false, 0>, stream::kSharedBytes<8>);
  } else if (shape.n_rows > 16) {
    run(linear_stream_kernel<4, false, 0>, stream::kSharedBytes<4>);
  } else if (shape.n_rows > 8) {
    run(linear_stream_kernel<2, false, 0>, stream::kSharedBytes<2>);
  } else if (head_dim == 128) {
    run_few(linear_stream_kernel<1, false, 128>, linear_stream_kernel<1, true, 128>);
  } else if (head_dim == 64) {
    run_few(linear_stream_kernel<1, false, 64>, linear_stream_kernel<1, true, 64>);
  } else if (head_dim == 32) {
    run_few(linear_stream_kernel<1, false, 32>, linear_stream_kernel<1, true, 32>);
  } else {
    run_few(linear_stream_kernel<1, false, 0>, linear_stream_kernel<1, true, 0>);
  }
}

}  // namespace qwen3::cuda
