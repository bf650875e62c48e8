// out[r, i] = x[r, i] / sqrt(mean_j x[r, j]^2 + eps) * weight[i], after x += add where there is something to add.
//
// One block of 256 threads per row: a row of up to 8,192 f32 stays in registers (8 vectors of 4 per thread), so that
// every byte is read once; 16 bytes per lane make full sectors. The sum runs along the thread's vectors, the warp and
// the warps, in one order for any number of rows.

#include "cuda/kernels.h"
#include "cuda/math.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = kMaxNormWidth / 4 / kThreads;

QWEN3_DEVICE float block_sum(float x) {
  const auto partial = shared_memory<float>(0);
  const int warp = thread_index().x / 32, lane = thread_index().x % 32;
  x = warp_sum(x);
  if (lane == 0) partial.store(warp, x);
  block_sync();
  float sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += partial.load(w);
  return sum;
}

QWEN3_KERNEL(kThreads)
rms_norm_kernel(float* x, const float* add, const float* weight, int hidden, float eps, Bf16* out) {
  const int64_t row = block_index().x;
  auto* in = reinterpret_cast<Float4*>(x + row * hidden);
  const auto* delta = reinterpret_cast<const Float4*>(add + row * hidden);
  const auto* w = reinterpret_cast<const Float4*>(weight);
  auto* to = reinterpret_cast<Words2*>(out + row * hidden);
  const int n = hidden / 4;
  grid_dependency_wait();
  Float4 v[kVectors];
  float sum = 0;
  QWEN3_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    const int i = j * kThreads + thread_index().x;
    v[j] = {0, 0, 0, 0};
    if (i >= n) continue;
    v[j] = load(in + i);
    if (add) {
      const Float4 d = load(delta + i);
      v[j] = {v[j].x + d.x, v[j].y + d.y, v[j].z + d.z, v[j].w + d.w};
      store(in + i, v[j]);
    }
    sum += (v[j].x * v[j].x + v[j].y * v[j].y) + (v[j].z * v[j].z + v[j].w * v[j].w);
  }
  const float scale = 1.0f / square_root(block_sum(sum) / static_cast<float>(hidden) + eps);
  QWEN3_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    const int i = j * kThreads + thread_index().x;
    if (i >= n) continue;
    const Float4 g = load(w + i);
    store(to + i, {pack_bf16(v[j].x * scale * g.x, v[j].y * scale * g.y),
                   pack_bf16(v[j].z * scale * g.z, v[j].w * scale * g.w)});
  }
  grid_dependency_launch();
}

}  // namespace

void rms_norm(Stream stream, float* x, const float* add, const float* weight, int n_rows, int hidden, float eps,
              Bf16* out) {
  launch(stream, "rms_norm", rms_norm_kernel, {{n_rows, 1, 1}, {kThreads, 1, 1}, kThreads / 32 * 4}, x, add, weight,
         hidden, eps, out);
}

}  // namespace qwen3::cuda
