// out[r, i] = x[r, i] / sqrt(mean_j x[r, j]^2 + eps) * weight[i], after x += add where there is something to add.
//
// One block of 256 threads per row: a row of up to 8,192 f32 stays in registers (8 vectors of 4 per thread), so that
// every byte is read once; 16 bytes per lane make full sectors. The sum runs along the thread's vectors, the warp and
// the warps, in one order for any number of rows.

#include "cuda/kernels.h"
#include "cuda/norm.h"
#include "cuda/ptx/launch.h"

namespace qwen3::cuda {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kVectors = kMaxNormWidth / 4 / kThreads;

QWEN3_KERNEL(kThreads)
rms_norm_kernel(float* x, const float* add, const float* weight, int hidden, float eps, Bf16* out) {
  const int64_t row = block_index().x;
  auto* in = reinterpret_cast<Float4*>(x + row * hidden);
  const auto* delta = reinterpret_cast<const Float4*>(add + row * hidden);
  const auto* w = reinterpret_cast<const Float4*>(weight);
  auto* to = reinterpret_cast<Words2*>(out + row * hidden);
  const int n = hidden / 4;
  grid_dependency_launch();
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
    sum = add_squares(sum, v[j]);
  }
  const auto partial = shared_memory<float>(0);
  sum = warp_sum(sum);
  if (thread_index().x % 32 == 0) partial.store(thread_index().x / 32, sum);
  block_sync();
  const float scale = norm_scale(partial, hidden, eps);
  QWEN3_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    const int i = j * kThreads + thread_index().x;
    if (i < n) store(to + i, normalise(v[j], scale, load(w + i)));
  }
}

}  // namespace

void rms_norm(Stream stream, float* x, const float* add, const float* weight, int n_rows, int hidden, float eps,
              Bf16* out) {
  launch(stream, "rms_norm", rms_norm_kernel, {{n_rows, 1, 1}, {kThreads, 1, 1}, kNormWarps * 4, true}, x, add, weight,
         hidden, eps, out);
}

}  // namespace qwen3::cuda
