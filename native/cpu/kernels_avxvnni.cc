#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace qwen3::cpu {
namespace {

// clang-format off
#include "cpu/simd_avx2.h"
#include "cpu/simd_no_bf16.h"
#include "cpu/kernels_common.inl"
// clang-format on

constexpr KernelTable table = [] {
  KernelTable t = common_table("avxvnni");
  t.row_group = kIntRows;
  t.linear_f32_bf16 = linear<F32xBf16InParts>;
  return t;
}();

}  // namespace

const KernelTable* kernels_avxvnni() {
  return &table;
}

}  // namespace qwen3::cpu

#else

namespace qwen3::cpu {
const KernelTable* kernels_avxvnni() {
  return nullptr;
}
}  // namespace qwen3::cpu

#endif
