#pragma once

// Kernels whose only work is to move memory: what the device gives at best (limits.cu).

#include <cstddef>

#include "cuda/ptx/types.h"

namespace qwen3::gpu_bench {

// Reads `bytes` from `from`. sink: 16 bytes that are written only if all that was read were zeros.
void read_memory(cuda::Stream stream, const void* from, size_t bytes, void* sink);
// Copies `bytes`. Both: multiples of kMoveGranule, 16-byte aligned.
void copy_memory(cuda::Stream stream, void* to, const void* from, size_t bytes);
constexpr size_t kMoveGranule = size_t{1} << 14;

}  // namespace qwen3::gpu_bench
