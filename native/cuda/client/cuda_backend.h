#pragma once

// The addon's side of libqwen3_cuda.so: opens it, checks its version and wraps its table as a Backend. Part of the
// engine library; links no CUDA.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace qwen3 {

// A GPU, or why it is not used.
struct CudaDevice {
  int32_t index = 0;
  std::string name;
  int32_t compute_major = 0, compute_minor = 0, multiprocessors = 0;
  int64_t memory_bytes = 0, free_bytes = 0;
  std::string driver;  // "13.0"
  std::string reason;  // empty: usable
};

struct CudaReport {
  std::string library;  // the file that was opened; empty: none
  std::string reason;   // one sentence when there are no devices
  std::vector<CudaDevice> devices;
};

// What create_cuda_backend (ops/backend.h) would find. Never throws: what stands in the way is the report's reason. The
// library is QWEN3_CUDA_LIBRARY, else libqwen3_cuda.so beside this addon or in the package's build-cuda folder, else
// wherever the loader finds it.
CudaReport cuda_report();

}  // namespace qwen3
