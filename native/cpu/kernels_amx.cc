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
#include "cpu/simd_avx512bf16.h"
// Each builds on those above.
#include "cpu/product.inl"
#include "cpu/elementwise.inl"
#include "cpu/linear.inl"
#include "cpu/quantise.inl"
#include "cpu/linear_int.inl"
#include "cpu/attention.inl"
#include "cpu/attention_int8.inl"
#include "cpu/amx.inl"
#include "cpu/linear_amx.inl"
#include "cpu/linear_int_amx.inl"
#include "cpu/attention_amx.inl"
// clang-format on

const KernelTable table = {
    .name = "amx",
    .bf16_products = true,
    .row_group = 2 * kAmxHeight,
    .linear_f32_f32 = linear<F32xF32>,
    .linear_f32_bf16 = linear<F32xBf16>,
    .linear_bf16_bf16 = linear_bf16_amx,
    .linear_int8 = linear_int_amx<Int8>,
    .linear_int4 = linear_int_amx<Int4>,
    .linear_int4_offset = linear_int_amx<Int4Offset>,
    .quantise = quantise,
    .fit_int8 = fit_int8,
    .fit_int4 = fit_int4,
    .encode = encode,
    .rms_norm = rms_norm,
    .norm_rope = norm_rope,
    .attention_f32 = attention<F32xF32>,
    .attention_bf16 = attention_bf16_amx,
    .attention_int8 = attention_int8,
    .combine = combine,
    .softmax = softmax,
    .add_scaled = add_scaled,
};

}  // namespace

const KernelTable* kernels_amx() {
  return &table;
}

}  // namespace qwen3::cpu

#else

namespace qwen3::cpu {
const KernelTable* kernels_amx() {
  return nullptr;
}
}  // namespace qwen3::cpu

#endif
