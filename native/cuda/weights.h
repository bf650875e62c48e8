#pragma once

#include <memory>
#include <span>

#include "cuda/library.h"
#include "cuda/loader.h"
#include "ops/backend.h"

namespace qwen3::cuda {

// A weight on the device: f32 for vectors, bf16 [rows, cols] row major otherwise; gate and up as 8 rows of the one, 8
// of the other, ..., so that both are in one tile (kernels.h, Output::kSiluMul).
struct DeviceWeight {
  WeightUse use;
  int64_t rows = 0, cols = 0;
  DeviceBuffer data;
};

// Throws Error(kUnsupported) for formats other than bf16 (vectors: any) and shapes that the kernels do not take.
int64_t packed_bytes(WeightUse use, WeightFormat format, int64_t rows, int64_t cols);
// Copies may still run when it returns (loader.finish()).
std::unique_ptr<DeviceWeight> pack_weight(Loader& loader, WeightUse use, WeightFormat format,
                                          std::span<const qwen3_cuda_source> sources);

}  // namespace qwen3::cuda
