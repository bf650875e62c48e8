#pragma once

#include <memory>
#include <string>

#include "core/status.h"
#include "cuda/library.h"

namespace qwen3 {

// An open libqwen3_cuda.so. It is never closed: the CUDA runtime in it cannot be unloaded safely.
class CudaLibrary {
 public:
  // Throws Error(kUnsupported, "device"): not found, not loadable, another version.
  static std::shared_ptr<const CudaLibrary> open();
  CudaLibrary(const qwen3_cuda_table* table, std::string path) : table_(table), path_(std::move(path)) {}
  const qwen3_cuda_table* operator->() const { return table_; }
  const std::string& path() const { return path_; }

 private:
  const qwen3_cuda_table* table_;
  std::string path_;
};

// Throws what the library reported.
[[noreturn]] inline void throw_cuda_error(const qwen3_cuda_error& e) {
  const bool known = e.code >= 0 && e.code <= static_cast<int32_t>(ErrorCode::kInternal);
  throw Error(known ? static_cast<ErrorCode>(e.code) : ErrorCode::kInternal, e.message, e.subject);
}

}  // namespace qwen3
