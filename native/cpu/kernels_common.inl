// What every level has, included by each kernels_*.cc behind its simd_*.h.

// Each builds on those above.
// clang-format off
#include "cpu/product.inl"
#include "cpu/elementwise.inl"
#include "cpu/linear.inl"
#include "cpu/quantise.inl"
#include "cpu/linear_int.inl"
#include "cpu/attention.inl"
#include "cpu/attention_int8.inl"
// clang-format on

// Of a level that has nothing but these; the others replace what they have better. Constant: no code of a level may run
// before it is known that the machine has it.
constexpr KernelTable common_table(const char* name) {
  return {
      .name = name,
      .bf16_products = false,
      .row_group = kWideRows,
      .linear_f32_f32 = linear<F32xF32>,
      .linear_f32_bf16 = linear<F32xBf16>,
      .linear_bf16_bf16 = nullptr,
      .linear_int8 = linear_int<Int8>,
      .linear_int4 = linear_int<Int4>,
      .linear_int4_offset = linear_int<Int4Offset>,
      .quantise = quantise,
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
}
