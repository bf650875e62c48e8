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
#include "cpu/quantise.inl"
#include "cpu/linear_int.inl"
#include "cpu/linear_words.inl"
#include "cpu/attention.inl"
#include "cpu/attention_int8.inl"
// clang-format on

const KernelTable table = {
    .name = "avx2",
    .bf16_products = false,
    .row_group = kIntRows,
    .int8_activation_bytes = Int8Words::kValue,
    .linear_f32_f32 = linear<F32xF32>,
    .linear_f32_bf16 = linear<F32xBf16InParts>,
    .linear_bf16_bf16 = nullptr,
    .linear_int8 = linear_int<Int8Words>,
    .linear_int4 = linear_int<Int4Words>,
    .linear_int4_offset = linear_int<Int4OffsetWords>,
    .quantise = quantise_words,
    .fit_int8 = fit_int8,
    .fit_int4 = fit_int4,
    .encode = encode,
    .rms_norm = rms_norm,
    .norm_rope = norm_rope,
    .attention_f32 = attention<F32xF32>,
    .attention_bf16 = attention<F32xBf16>,
    .attention_int8 = attention_int8,
    .combine = combine,
    .softmax = softmax,
    .add_scaled = add_scaled,
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
