#include "cpu/kernels.h"

#if defined(__x86_64__)
// GCC 12's AVX-512 intrinsics use an undefined vector on purpose and are then warned about.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace qwen3::cpu {
namespace {

// clang-format off
#include "cpu/simd_avx512.h"
#include "cpu/simd_no_bf16.h"
#include "cpu/kernels_common.inl"
// clang-format on

constexpr KernelTable table = common_table("avx512vnni");

}  // namespace

const KernelTable* kernels_avx512vnni() {
  return &table;
}

}  // namespace qwen3::cpu

#else

namespace qwen3::cpu {
const KernelTable* kernels_avx512vnni() {
  return nullptr;
}
}  // namespace qwen3::cpu

#endif
