// Reads and copies at the speed of memory: 256 threads with 4 loads of 16 bytes each on their way, 16 KB a block, as
// many blocks as there are pieces. The hardware starts a block where one has ended, so that no multiprocessor waits for
// another.

#include "limits.h"

#include "cuda/ptx/launch.h"

namespace qwen3::gpu_bench {
namespace {

using namespace cuda;

constexpr int kThreads = 256, kLoads = 4;
static_assert(kThreads * kLoads * 16 == kMoveGranule);

QWEN3_KERNEL(kThreads) read_kernel(const Words4* from, Words4* sink) {
  const Words4* at = from + static_cast<int64_t>(block_index().x) * kThreads * kLoads + thread_index().x;
  Words4 v[kLoads];
  QWEN3_UNROLL
  for (int i = 0; i < kLoads; ++i) v[i] = load_stream(at + i * kThreads);
  uint32_t any = 0;
  QWEN3_UNROLL
  for (int i = 0; i < kLoads; ++i) any |= v[i].x | v[i].y | v[i].z | v[i].w;
  if (any == 0) store(sink, v[0]);
}

QWEN3_KERNEL(kThreads) copy_kernel(const Words4* from, Words4* to) {
  const int64_t begin = static_cast<int64_t>(block_index().x) * kThreads * kLoads + thread_index().x;
  Words4 v[kLoads];
  QWEN3_UNROLL
  for (int i = 0; i < kLoads; ++i) v[i] = load_stream(from + begin + i * kThreads);
  QWEN3_UNROLL
  for (int i = 0; i < kLoads; ++i) store(to + begin + i * kThreads, v[i]);
}

LaunchShape pieces(size_t bytes) {
  return {{static_cast<int>(bytes / kMoveGranule), 1, 1}, {kThreads, 1, 1}};
}

}  // namespace

void read_memory(Stream stream, const void* from, size_t bytes, void* sink) {
  launch(stream, "read_memory", read_kernel, pieces(bytes), static_cast<const Words4*>(from),
         static_cast<Words4*>(sink));
}

void copy_memory(Stream stream, void* to, const void* from, size_t bytes) {
  launch(stream, "copy_memory", copy_kernel, pieces(bytes), static_cast<const Words4*>(from), static_cast<Words4*>(to));
}

}  // namespace qwen3::gpu_bench
