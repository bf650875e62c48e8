#pragma once

// Launching a kernel and describing a tensor for TMA, on a device or in the emulation.

#include <string>

#include "core/status.h"
#include "cuda/ptx/ptx.h"

#if defined(__CUDACC__)
#include <cuda.h>
#else
#include "cuda/emulate/driver.h"
#include "cuda/emulate/launch.h"
#include "cuda/emulate/tensor_map.h"
#endif

namespace qwen3::cuda {

struct LaunchShape {
  Dim3 grid, threads;
  int shared_bytes = 0;
  // Programmatic dependent launch: the kernel calls grid_dependency_wait() before it reads what earlier kernels wrote.
  bool overlaps_previous = false;
};

#if defined(__CUDACC__)

// Throws Error(kInternal) with CUDA's name of the error.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
              std::string(what) + ": " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")");
}

// device/runtime.cu: whether the current device runs a build of the kernel in which grid_dependency_wait() is an
// instruction. It is none below sm_90, and there nothing may overlap; PTX of compute_80 runs on newer chips too.
bool waits_for_dependency(const void* kernel);

template <class... Parameters, class... Arguments>
void launch(Stream stream, const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            const Arguments&... arguments) {
  if (shape.shared_bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes), name);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.grid.x, shape.grid.y, shape.grid.z);
  config.blockDim = dim3(shape.threads.x, shape.threads.y, shape.threads.z);
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = shape.overlaps_previous && waits_for_dependency(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

#else

template <class... Parameters, class... Arguments>
void launch(Stream stream, const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            const Arguments&... arguments) {
  emulate::submit(stream, [name, kernel, shape, ... values = static_cast<Parameters>(arguments)] {
    emulate::run_grid(
        name, shape.grid, shape.threads, shape.shared_bytes, [&] { kernel(values...); }, shape.overlaps_previous);
  });
}

#endif

}  // namespace qwen3::cuda
