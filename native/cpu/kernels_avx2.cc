#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace qwen3::cpu {
namespace {

// clang-format off
#include "cpu/simd_avx2.h"
#include "cpu/simd_no_bf16.h"
#include "cpu/kernels_common.inl"
#include "cpu/linear_words.inl"
// clang-format on

constexpr KernelTable table = [] {
  KernelTable t = common_table("avx2");
  t.row_group = kIntRows;
  t.int8_activation_bytes = Int8Words::kValue;
  t.linear_f32_bf16 = linear<F32xBf16InParts>;
  t.linear_int8 = linear_int<Int8Words>;
  t.linear_int4 = linear_int<Int4Words>;
  t.linear_int4_offset = linear_int<Int4OffsetWords>;
  t.quantise = quantise_words;
  return t;
}();

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
