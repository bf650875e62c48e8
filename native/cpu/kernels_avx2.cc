#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace qwen3::cpu {
namespace {

#include "cpu/simd_avx2.h"

// No activation is kept as bf16 at this level (KernelTable::bf16_products).
inline void vstore_bf16_n(uint16_t*, F, int) {
  __builtin_trap();
}
inline F vload_bf16_n(const uint16_t*, int) {
  __builtin_trap();
}

// Each builds on those above.
// clang-format off
#include "cpu/product.inl"
#include "cpu/elementwise.inl"
#include "cpu/linear.inl"
#include "cpu/attention.inl"
// clang-format on

const KernelTable table = {
    "avx2",   false,      linear<F32xF32>,    linear<F32xBf16>,    nullptr,
    rms_norm, norm_rope,  attention<F32xF32>, attention<F32xBf16>, combine,
    softmax,  add_scaled,
};

}  // namespace

const KernelTable* kernels_avx2() {
  return &table;
}

}  // namespace qwen3::cpu

#else

namespace qwen3::cpu {
const KernelTable* kernels_avx2() {
  return nullptr;
}
}  // namespace qwen3::cpu

#endif
