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
#include "cpu/kernels_common.inl"
#include "cpu/amx.inl"
#include "cpu/linear_amx.inl"
#include "cpu/linear_int_amx.inl"
#include "cpu/attention_amx.inl"
// clang-format on

constexpr KernelTable table = [] {
  KernelTable t = common_table("amx");
  t.bf16_products = true;
  t.row_group = 2 * kAmxHeight;
  t.linear_bf16_bf16 = linear_bf16_amx;
  t.linear_int8 = linear_int_amx<Int8>;
  t.linear_int4 = linear_int_amx<Int4>;
  t.linear_int4_offset = linear_int_amx<Int4Offset>;
  t.attention_bf16 = attention_bf16_amx;
  return t;
}();

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
