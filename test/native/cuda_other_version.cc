// A CUDA library of another version, for the sentence that it is refused with (cuda_loop_test.cc).

#include "cuda/library.h"

extern "C" __attribute__((visibility("default"))) const qwen3_cuda_table* qwen3_cuda_library(int32_t abi_version) {
  static const qwen3_cuda_table table = [] {
    qwen3_cuda_table t{};
    t.abi_version = 7, t.size = sizeof t, t.version = "9.8.7";
    return t;
  }();
  return abi_version == 0 || abi_version == 7 ? &table : nullptr;
}
